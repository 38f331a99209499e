"""Exports and words by the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.server import SMALL, Server, picture
from trellis2_server.client import NotFoundError, RefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., Any]


def test_a_finished_job_is_exported_again(ask: Ask, server: Server) -> None:
    uid = ask(server, "generate", picture(), seed=7, **SMALL).uid
    assert ask(server, "export", uid)[:4] == b"glTF"
    fields = {"type": "obj", "decimation_target": 1000, "texture": None}
    content = ask(server, "export", uid, fields)
    assert b"\nv " in content
    with pytest.raises(RefusedError, match="type"):
        ask(server, "export", uid, {"type": "fbx"})
    with pytest.raises(NotFoundError):
        ask(server, "export", "0" * 32)


def test_words_alone_are_the_servers_business(ask: Ask, server: Server) -> None:
    with pytest.raises(RefusedError, match=r"^text: "):
        ask(server, "submit_text", "a chair", seed=-1)
    with pytest.raises(UsageError, match="sed: no such option"):
        ask(server, "submit_text", "a chair", sed=1)
