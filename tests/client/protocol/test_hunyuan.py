"""A Hunyuan3D server instead of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.hunyuan import HunyuanServer
from tests.support.server import picture
from trellis2_server.client import JobFailedError, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., Any]


def test_a_hunyuan3d_server_is_polled(ask: Ask) -> None:
    with HunyuanServer() as server:
        found: list[Progress] = []
        result = ask(server, "generate", picture(), on_progress=found.append)
        assert result.textured == result.model == b"glTF model"
        assert result.shape is None
        assert {"shape", "texture"} <= {each.text for each in found}
        server.failure = "out of memory"
        with pytest.raises(JobFailedError, match="out of memory"):
            ask(server, "generate", picture())
        assert ask(server, "wait_until_ready").status == "unknown"
