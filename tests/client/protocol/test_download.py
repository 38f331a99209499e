"""Downloads that are interrupted."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.faults import cut, reply
from tests.support.server import SMALL, Server, picture, serving, settings
from trellis2_server.client import UnreachableError
from trellis2_server.client.protocol.download import PartialDownload
from trellis2_server.client.protocol.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trellis2_server.client import Progress

    Ask = Callable[..., Any]


def test_an_interrupted_download_is_resumed(ask: Ask, server: Server) -> None:
    whole = ask(server, "generate", picture(), **SMALL).textured
    server.faults.next("/jobs/", cut(1000), cut(500))
    begin = len(server.faults.requests)
    assert ask(server, "generate", picture(), shape=False, **SMALL).textured == whole
    ranges = [
        each.headers.get("range")
        for each in server.faults.requests[begin:]
        if each.path.startswith("/jobs/")
    ]
    assert ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_a_file_that_has_changed_is_downloaded_from_its_beginning(ask: Ask, server: Server) -> None:
    whole = ask(server, "generate", picture(), **SMALL).textured
    for answer in (
        reply(200, b"x" * 90, content_length="100", etag='"another"'),
        reply(206, b"x", content_range="bytes 7-7/100", content_length="1"),
        reply(416),
    ):
        server.faults.next("/jobs/", cut(1000), answer)
        assert ask(server, "generate", picture(), shape=False, **SMALL).textured == whole


def test_a_download_is_resumed_after_a_restart_of_a_server_with_stored_results(
    ask: Ask, tmp_path: Path
) -> None:
    configured = settings(worker={"result_dir": str(tmp_path)})
    restarted: list[Server] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(GatedEngine(), configured))
        server.wait_until_loaded()
        whole = ask(server, "generate", picture(), shape=False, **SMALL).textured

        def restart(progress: Progress) -> None:
            if progress.is_trouble and not restarted:
                server.stop()
                again = serving(GatedEngine(), configured, port=server.address[1])
                restarted.append(stack.enter_context(again))

        server.faults.next("/jobs/", cut(1000))
        result = ask(server, "generate", picture(), shape=False, on_progress=restart, **SMALL)
        assert result.textured == whole
        requests = restarted[0].faults.requests
        assert not restarted[0].faults.paths("/send")
        assert [each.headers.get("range") for each in requests][-1] == "bytes=1000-"


def test_only_the_rest_of_an_unchanged_file_is_requested() -> None:
    partial = PartialDownload("jobs/a/model.glb")
    assert "Range" not in partial.request_headers()
    partial.start(Reply(200, {"etag": '"1"', "content-length": "9"}))
    partial.content += b"glTF"
    with pytest.raises(UnreachableError, match="lost during the download"):
        partial.complete()
    headers = partial.request_headers()
    assert (headers["Range"], headers["If-Range"]) == ("bytes=4-", '"1"')
    partial.start(Reply(206, {"etag": '"1"', "content-range": "bytes 4-8/9"}))
    partial.content += b" done"
    assert partial.complete() == b"glTF done"


def test_a_file_with_a_weak_tag_is_downloaded_from_its_beginning() -> None:
    partial = PartialDownload("jobs/a/model.glb")
    partial.start(Reply(200, {"etag": 'W/"1"'}))
    partial.content += b"glTF"
    assert "Range" not in partial.request_headers()
    partial.start(Reply(200, {}))
    assert (partial.content, partial.total) == (b"", None)
