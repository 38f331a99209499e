"""Jobs that are lost, fail or are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.faults import cut
from tests.support.server import SMALL, Server, picture, serving, until
from trellis2_server.client import AsyncClient, Client, JobCancelledError, JobFailedError, Progress
from trellis2_server.client.protocol.generation import GenerationRequest

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
