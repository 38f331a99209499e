"""Downloads that are interrupted."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.faults import cut, reply
from tests.support.operations import Performed, perform
from tests.support.server import SMALL, Server, picture, serving, settings
from trellis2_server.client import NotFoundError, ProtocolError, UnreachableError
from trellis2_server.client.protocol import retry
from trellis2_server.client.protocol.actions import DownloadProgress, Open, Read
from trellis2_server.client.protocol.download import PartialDownload, download
from trellis2_server.client.protocol.replies import Reply
from trellis2_server.client.protocol.retry import Backoff

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


# ---- by hand ---------------------------------------------------------------------------------


def downloading(*answers: object, patience_s: float = 1e9) -> Performed:
    return perform(download("uid-1", "shape.glb", Backoff(patience_s)), *answers)


def whole(length: int = 9, **more: str) -> Reply:
    return Reply(200, {"etag": '"1"', "content-length": str(length), **more})


def test_a_download_is_one_request_and_reports_each_chunk() -> None:
    done = downloading(whole(), b"glTF", b" done", b"")
    assert done.result == b"glTF done"
    assert done.asked == [
        Open("jobs/uid-1/shape.glb", {"Accept-Encoding": "identity"}), Read(), Read(), Read(),
    ]  # fmt: skip
    assert done.updates == [DownloadProgress(4, 9), DownloadProgress(9, 9)]
    assert done.pauses == []


@pytest.mark.parametrize("received", range(9))
def test_a_file_that_is_cut_short_anywhere_is_not_taken_for_whole(received: int) -> None:
    content = b"glTF done"
    begin = [content[:received]] if received else []
    rest = Reply(206, {"etag": '"1"', "content-range": f"bytes {received}-8/9"})
    done = downloading(whole(), *begin, b"", rest if received else whole(), content[received:], b"")
    assert done.result == content
    assert done.headers[1].get("Range") == (f"bytes={received}-" if received else None)
    assert len(done.pauses) == 1
    assert "the connection was lost during the download" in str(done.updates)
    impatient = downloading(whole(), *begin, b"", patience_s=0)
    assert isinstance(impatient.error, UnreachableError)
    assert impatient.result is None


def test_a_file_of_unknown_size_is_whole_when_its_reply_ends() -> None:
    for length in ({}, {"content-length": ""}, {"content-length": "9, 9"}):
        done = downloading(Reply(200, length), b"glTF", b"")
        assert (done.result, done.updates) == (b"glTF", [DownloadProgress(4, None)])


def test_a_file_that_comes_in_many_parts_is_put_together() -> None:
    parts: list[object] = [whole(), b"g", UnreachableError("lost")]
    for at in range(1, 8):
        head = {"etag": '"1"', "content-length": "1", "content-range": f"bytes {at}-8/9"}
        parts += [Reply(206, head), b"glTF done"[at : at + 1], b""]
    head = {"etag": '"1"', "content-range": "bytes 8-8/9"}
    done = downloading(*parts, Reply(206, head), b"e", b"")
    assert done.result == b"glTF done"
    assert [each.get("Range") for each in done.headers[1:]] == [
        f"bytes={at}-" for at in range(1, 9)
    ]
    # Something came each time: the next delay is again the first one.
    assert max(done.pauses) <= 1.25 * retry.FIRST_DELAY_S


@pytest.mark.parametrize(
    "answer",
    [
        Reply(206, {"content-range": "bytes 3-8/9"}),
        Reply(206, {"content-range": "bytes 5-8/9"}),
        Reply(206, {"content-range": "bytes 40-80/90"}),
        Reply(206, {}),
        Reply(416, {}),
    ],
)
def test_the_rest_of_something_else_is_not_appended(answer: Reply) -> None:
    done = downloading(whole(), b"glTF", b"", answer, whole(), b"glTF done", b"")
    assert done.result == b"glTF done"
    assert [each.get("Range") for each in done.headers] == [None, "bytes=4-", None]


def test_a_changed_file_replaces_what_was_received() -> None:
    done = downloading(whole(), b"glTF", b"", whole(3), b"new", b"")
    assert done.result == b"new"
    assert done.updates[-1] == DownloadProgress(3, 3)


def test_a_file_that_is_not_there_is_not_asked_for_again() -> None:
    assert isinstance(downloading(Reply(404, {})).error, NotFoundError)
    assert downloading(Reply(503, {}), whole(1), b"x", b"").result == b"x"


def test_the_name_of_a_job_cannot_leave_its_path() -> None:
    with pytest.raises(ProtocolError):
        next(download("../x", "shape.glb", Backoff(0)))
