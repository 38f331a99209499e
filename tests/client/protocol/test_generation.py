"""Jobs that are lost, fail or are cancelled."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.faults import cut
from tests.support.operations import Performed, json_reply, perform
from tests.support.server import SMALL, Server, picture, serving, until
from trellis2_server.client import (
    AsyncClient,
    Client,
    JobCancelledError,
    JobFailedError,
    JobLostError,
    Progress,
    RefusedError,
    UnreachableError,
    UsageError,
)
from trellis2_server.client.options import MAX_SEED
from trellis2_server.client.protocol import generation
from trellis2_server.client.protocol.actions import Call, Notice, ReadFile, ShapeReady
from trellis2_server.client.protocol.generation import GenerationRequest
from trellis2_server.client.protocol.replies import SHUTTING_DOWN, Reply
from trellis2_server.client.protocol.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., Any]


def test_a_random_seed_is_drawn_before_the_request_is_sent(ask: Ask, server: Server) -> None:
    server.faults.next("/send", cut(1))
    result = ask(server, "generate", picture(4), seed=-1, texture=False, **SMALL)
    assert len(server.faults.paths("/send")) == 2
    assert [job.seed for job in ask(server, "jobs")] == [result.seed]


def test_a_job_that_was_lost_by_a_restart_is_submitted_again(ask: Ask) -> None:
    first, found = GatedEngine("texture"), list[Progress]()
    restarted: list[Any] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(first))
        server.wait_until_loaded()

        def restart(_: bytes) -> None:
            if restarted:
                return
            first.open_all()
            server.stop()
            restarted.append(stack.enter_context(serving(GatedEngine(), port=server.address[1])))

        result = ask(
            server, "generate", picture(), on_progress=found.append, on_shape=restart, **SMALL
        )
        assert result.textured[:4] == b"glTF"
        assert any("lost the job" in each.text for each in found)
        assert len(restarted[0].faults.paths("/send")) >= 1


def test_a_failed_job_raises_the_servers_message(
    ask: Ask, server: Server, engine: GatedEngine
) -> None:
    engine.failures["texture"] = ValueError("not shown")
    with pytest.raises(JobFailedError) as caught:
        ask(server, "generate", picture(), **SMALL)
    assert str(caught.value) == ask(server, "job", caught.value.uid).error


def test_a_job_is_cancelled_if_a_callback_raises(
    ask: Ask, server: Server, engine: GatedEngine
) -> None:
    engine.gates["shape"].clear()

    def fail(progress: Progress) -> None:
        if progress.job is not None:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        ask(server, "generate", picture(), on_progress=fail, **SMALL)
    engine.open_all()
    (job,) = ask(server, "jobs")
    until(lambda: ask(server, "job", job.uid).error == "cancelled", "cancelled")


def test_a_job_is_cancelled_with_its_task(server: Server, engine: GatedEngine) -> None:
    engine.gates["shape"].clear()

    async def run() -> None:
        async with AsyncClient(server.url) as client:
            seen = asyncio.Event()
            job = asyncio.ensure_future(
                client.generate(picture(), on_progress=lambda p: p.job and seen.set(), **SMALL)
            )
            await asyncio.wait_for(seen.wait(), PATIENCE_S)
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job

    asyncio.run(run())
    engine.open_all()
    with Client(server.url) as client:
        until(lambda: client.jobs()[0].error == "cancelled", "cancelled")


def test_a_job_that_another_client_cancels_raises_an_error(
    ask: Ask, server: Server, engine: GatedEngine
) -> None:
    engine.gates["texture"].clear()

    def cancel(_: bytes) -> None:
        with Client(server.url) as other:
            other.cancel(other.jobs()[0].uid)
        engine.open_all()

    with pytest.raises(JobCancelledError):
        ask(server, "generate", picture(), on_shape=cancel, **SMALL)


@pytest.mark.parametrize(
    ("mesh", "texture", "shape", "expected"),
    [
        (None, True, True, True),
        (None, True, False, False),
        (None, False, False, True),
        (b"mesh", True, True, False),
    ],
)
def test_an_untextured_model_is_returned_if_it_is_generated_and_wanted(
    mesh: bytes | None,
    texture: bool,  # noqa: FBT001 - a parameter of the test, like the next ones
    shape: bool,  # noqa: FBT001
    expected: bool,  # noqa: FBT001
) -> None:
    request = GenerationRequest(b"picture", mesh, texture, shape, "glb", {})
    assert request.returns_shape is expected


def test_only_a_textured_obj_is_zipped() -> None:
    request = GenerationRequest(
        b"picture", None, texture=True, shape=True, type="obj_zip", fields={}
    )
    assert request.file_name("shape") == "shape.obj"
    assert request.file_name("textured") == "textured.zip"


# ---- by hand ---------------------------------------------------------------------------------

SENT = json_reply(200, '{"uid": "uid-1"}')
STREAM = Reply(200, {"content-type": "text/event-stream"})


def asking(
    picture: Any = b"picture",
    mesh: Any = None,
    *,
    texture: bool = True,
    shape: bool = True,
    type: Any = "glb",  # noqa: A002 - as the API calls it
    **fields: Any,
) -> GenerationRequest:
    return GenerationRequest(picture, mesh, texture, shape, type, fields)


def generating(request: GenerationRequest, *answers: object) -> Performed:
    return perform(generation.generate(request, Backoff(0)), *answers)


def event(status: str, name: str = "status", **more: Any) -> bytes:
    state = {"uid": "uid-1", "status": status, **more}
    return f"event: {name}\ndata: {json.dumps(state)}\n\n".encode()


def file(content: bytes) -> tuple[object, ...]:
    return Reply(200, {"content-length": str(len(content))}), content, b""


ENDED = {"name": "end", "image_hash": "h", "seed": 7, "engine": "preview", "background": "alpha",
         "resolution": 512, "warnings": ["dark"], "timings": {"shape": 1.5}}  # fmt: skip


def test_both_models_are_downloaded_and_the_shape_as_soon_as_it_is_there() -> None:
    done = generating(
        asking(seed=3), b"picture", SENT, STREAM,
        event("texture_processing", shape_ready=True), *file(b"shape"), STREAM,
        event("completed", **ENDED), *file(b"textured"),
    )  # fmt: skip
    assert done.error is None
    assert done.paths == ["send", "events/uid-1", "jobs/uid-1/shape.glb", "events/uid-1",
                          "jobs/uid-1/textured.glb"]  # fmt: skip
    assert [each.content for each in done.updates if isinstance(each, ShapeReady)] == [b"shape"]
    result = done.result
    assert (result.uid, result.type) == ("uid-1", "glb")
    assert (result.shape, result.textured, result.model) == (b"shape", b"textured", b"textured")
    assert (result.image_hash, result.seed, result.engine) == ("h", 7, "preview")
    assert (result.background, result.resolution) == ("alpha", 512)
    assert (result.warnings, result.timings) == (("dark",), {"shape": 1.5})


@pytest.mark.parametrize(
    ("request_", "files"),
    [
        (asking(), ["shape.glb", "textured.glb"]),
        (asking(shape=False), ["textured.glb"]),
        (asking(texture=False, shape=False), ["shape.glb"]),
        (asking(texture=False, type="ply"), ["shape.ply"]),
        (asking(mesh=b"mesh"), ["textured.glb"]),
    ],
)
def test_a_job_that_has_ended_already_has_its_files_downloaded(
    request_: GenerationRequest, files: list[str]
) -> None:
    read = [b"picture", *([b"mesh"] if request_.mesh else [])]
    contents = [part for name in files for part in file(name.encode())]
    done = generating(request_, *read, SENT, STREAM, event("completed", "end"), *contents)
    assert done.error is None
    assert done.paths[2:] == [f"jobs/uid-1/{name}" for name in files]
    got = (done.result.shape, done.result.textured)
    wanted = {name.partition(".")[0]: name.encode() for name in files}
    assert got == (wanted.get("shape"), wanted.get("textured"))
    assert not any(isinstance(each, ShapeReady) for each in done.updates)
    assert done.result.model == files[-1].encode()


def test_what_is_sent_is_the_request() -> None:
    request = asking("one.png", "mesh.ply", type="obj", seed=5, remesh=False, compress=None)
    done = perform(generation.submit(request, Backoff(0)), b"picture", b"mesh", SENT)
    assert done.result == "uid-1"
    body = {
        "seed": 5, "remesh": False, "texture": True, "type": "obj",
        "image": base64.b64encode(b"picture").decode(),
        "mesh": base64.b64encode(b"mesh").decode(),
    }  # fmt: skip
    assert done.asked == [ReadFile("one.png"), ReadFile("mesh.ply"), Call("POST", "send", body)]


@pytest.mark.parametrize("drawn", [0, MAX_SEED])
def test_a_random_seed_is_any_that_the_server_takes(
    monkeypatch: pytest.MonkeyPatch, drawn: int
) -> None:
    below: list[int] = []

    def randbelow(end: int) -> int:
        below.append(end)
        return drawn

    monkeypatch.setattr(generation.secrets, "randbelow", randbelow)
    done = perform(generation.read_body(asking(seed=-1)), b"picture")
    assert (below, done.result["seed"]) == ([MAX_SEED + 1], drawn)
    for seed in (0, 1):
        assert perform(generation.read_body(asking(seed=seed)), b"picture").result["seed"] == seed
    assert "seed" not in perform(generation.read_body(asking()), b"picture").result


def test_a_lost_job_is_sent_again_with_the_same_body_a_few_times() -> None:
    lost = (SENT, STREAM, event("error", "end", error=SHUTTING_DOWN))
    found = (SENT, STREAM, event("completed", "end"), *file(b"textured"))
    for times in range(generation.MAX_RESUBMISSIONS + 1):
        done = generating(asking(shape=False, seed=-1), b"picture", *lost * times, *found)
        assert done.result.textured == b"textured"
        bodies = [each.body for each in done.asked if isinstance(each, Call)]
        assert bodies == bodies[:1] * (times + 1)
        assert sum(isinstance(each, Notice) for each in done.updates) == times
    given_up = generating(asking(), b"picture", *lost * (generation.MAX_RESUBMISSIONS + 1))
    assert isinstance(given_up.error, JobLostError)
    assert given_up.error.uid == "uid-1"


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ("out of memory", JobFailedError, "out of memory"),
        (None, JobFailedError, "the job failed"),
        ("cancelled", JobCancelledError, "the job was cancelled on the server"),
        ("cancelled: no client", JobFailedError, "cancelled: no client"),
    ],
)
def test_a_job_without_a_model_raises_what_happened_to_it(
    error: str | None, kind: type[Exception], message: str
) -> None:
    failed = generating(asking(), b"picture", SENT, STREAM, event("error", "end", error=error))
    assert type(failed.error) is kind
    assert (str(failed.error), getattr(failed.error, "uid", None)) == (message, "uid-1")
    assert not any(isinstance(each, Call) and each.method == "DELETE" for each in failed.asked)


@pytest.mark.parametrize("answer", [json_reply(204), json_reply(404), UnreachableError("gone")])
def test_a_job_is_cancelled_when_the_caller_stops(answer: object) -> None:
    """Whatever becomes of that."""
    done = generating(asking(), b"picture", SENT, KeyboardInterrupt(), answer)
    assert isinstance(done.error, KeyboardInterrupt)
    assert done.asked[-1] == Call("DELETE", "jobs/uid-1", timeout_s=generation.CANCEL_S)


def test_a_job_is_not_cancelled_for_an_error_of_the_server_or_before_it_is_there() -> None:
    refused = generating(asking(), b"picture", SENT, json_reply(400))
    assert isinstance(refused.error, RefusedError)
    early = generating(asking(), b"picture", KeyboardInterrupt())
    assert isinstance(early.error, KeyboardInterrupt)
    for done in (refused, early):
        assert not any(isinstance(each, Call) and each.method == "DELETE" for each in done.asked)


POLLED = json_reply(200, '{"status": "completed", "model_base64": "Z2xURg=="}')


@pytest.mark.parametrize("texture", [True, False])
def test_a_server_without_events_gives_the_model_that_was_requested(*, texture: bool) -> None:
    done = generating(asking(texture=texture), b"picture", SENT, json_reply(404), POLLED)
    result = done.result
    assert (result.shape, result.textured) == ((None, b"glTF") if texture else (b"glTF", None))
    assert (result.uid, result.image_hash, result.seed) == ("uid-1", None, None)
    assert done.paths == ["send", "events/uid-1", "status/uid-1"]


def test_a_server_that_has_events_but_no_files_is_polled_too() -> None:
    done = generating(
        asking(), b"picture", SENT, STREAM, event("texture_processing", shape_ready=True),
        *file(b"shape"), STREAM, event("completed", **ENDED), json_reply(404), POLLED,
    )  # fmt: skip
    assert (done.result.shape, done.result.textured, done.result.seed) == (b"shape", b"glTF", 7)
    lost = generating(asking(), b"picture", SENT, json_reply(404), *[json_reply(404)] * 1,
                      SENT, STREAM, event("error", "end", error="e"))  # fmt: skip
    assert str(lost.error) == "e"


def test_arguments_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^mesh: requires a texture$"):
        asking(mesh=b"mesh", texture=False)
    with pytest.raises(UsageError, match=r"^type: must be one of glb, "):
        asking(type="fbx")
    assert asking(type="obj").file_name("shape") == "shape.obj"


def test_a_file_is_downloaded_with_the_placement_that_was_asked_for() -> None:
    fields = {"seed": 1, "up_axis": "y", "size_mm": 30, "origin": None}
    for mesh, expected in (
        (None, "textured.stl?up_axis=y&size_mm=30"),
        # The axis of a request with a mesh is that of the mesh.
        (b"mesh", "textured.stl?size_mm=30"),
    ):
        request = GenerationRequest(
            b"picture", mesh, texture=True, shape=False, type="stl", fields=fields
        )
        assert request.file_name("textured") == expected
