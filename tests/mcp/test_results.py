"""What tools tell of a job while it runs, and return when it ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("mcp", reason="mcp is not installed: pip install 'mcp>=1.10,<2'")

from tests.support.engines import PATIENCE_S
from trellis2_server.client import ClientError, JobState
from trellis2_server.mcp.results import Notifier, describe, follow, summary

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

JOB = JobState("1", "shape_processing", progress=0.0)


class Client:
    """A client of a server that tells these states, then nothing."""

    server = "http://a.example"

    def __init__(self, *states: JobState, is_endless: bool = False) -> None:
        self.states = states
        self.is_endless = is_endless
        self.ended = False
        self.asked: list[str] = []

    async def events(self, uid: str) -> AsyncGenerator[JobState]:
        assert uid == "1"
        try:
            for state in self.states:
                yield state
            if self.is_endless:
                await asyncio.Event().wait()
        finally:
            self.ended = True

    async def job(self, uid: str) -> JobState:
        assert uid == "1"
        return self.states[-1]

    async def download(self, uid: str, name: str) -> bytes:
        self.asked.append(f"{uid}/{name}")
        if self.server.endswith("broken"):
            raise ClientError("gone")
        return b"png"


class Call:
    """A tool's call, whose client is told of progress."""

    def __init__(self) -> None:
        self.told: list[tuple[float, float]] = []

    async def report_progress(self, fraction: float, total: float, text: str) -> None:
        assert text
        self.told.append((fraction, total))


def followed(client: Client, wait_s: float) -> tuple[JobState, Call]:
    call = Call()
    arguments: Any = client, "1", wait_s, call

    async def work() -> JobState:
        before = asyncio.all_tasks()
        state = await follow(*arguments)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before  # nothing is told any more
        return state

    return asyncio.run(asyncio.wait_for(work(), PATIENCE_S)), call


def test_the_progress_of_a_textured_model_has_room_for_its_texture() -> None:
    states = [
        replace(JOB, progress=0.5),
        replace(JOB, progress=1.0),
        replace(JOB, status="texture_processing", progress=0.5),
        replace(JOB, status="completed", progress=None),
    ]
    state, call = followed(Client(*states), PATIENCE_S)
    assert state == states[-1]
    fractions = [fraction for fraction, _ in call.told]
    assert len(fractions) == 4
    assert fractions == sorted(set(fractions))
    assert fractions[1] < 0.9
    assert fractions[2] - fractions[1] > 0.05
    assert {total for _, total in call.told} == {1.0}


@pytest.mark.parametrize("wait_s", [0, 0.05])
def test_a_job_that_goes_on_is_told_when_the_time_is_over(wait_s: float) -> None:
    client = Client(replace(JOB, progress=0.5), is_endless=True)
    state, _ = followed(client, wait_s)
    assert state.progress == 0.5
    assert client.ended or not wait_s


def described(state: JobState, server: str = "http://a.example") -> tuple[list[Any], list[str]]:
    client: Any = Client(state)
    client.server = server
    return asyncio.run(describe(client, state)), client.asked


def test_a_job_with_a_model_is_returned_with_a_picture_of_512_pixels() -> None:
    for name in ("shape_ready", "texture_ready"):
        parts, asked = described(replace(JOB, **{name: True}))
        assert parts[1].data == b"png"
        assert asked == ["1/thumbnail.png?size=512&view=three_quarter"]
    assert described(JOB)[0] == [summary("http://a.example", JOB)]


def test_a_picture_that_cannot_be_had_is_told_in_its_place() -> None:
    parts, _ = described(replace(JOB, shape_ready=True), "http://a.broken")
    assert parts[1:] == ["there is no picture: gone"]


def test_a_running_job_has_its_progress_and_a_finished_one_its_files() -> None:
    running = replace(
        JOB, progress=0.25, stage="shape", eta_seconds=3.0, queue_position=2, engine="preview"
    )
    assert summary("http://a.example", running) == {
        "job_id": "1", "status": "shape_processing", "queue_position": 2, "stage": "shape",
        "progress_of_status": 0.25, "eta_seconds": 3.0, "engine": "preview",
        "next": "call follow_job to wait for it",
    }  # fmt: skip
    done = replace(
        running, status="completed", seed=7, warnings=("small",), files={"shape.glb": 3},
        finished_at=1.0,
    )  # fmt: skip
    assert summary("http://a.example", done) == {
        "job_id": "1", "status": "completed", "engine": "preview", "seed": 7,
        "warnings": ["small"], "files": {"shape.glb": "http://a.example/jobs/1/shape.glb"},
    }  # fmt: skip


def test_progress_increases_also_where_there_is_no_news() -> None:
    told: list[tuple[float, float, str]] = []

    async def work() -> None:
        repeated = asyncio.Event()

        async def report(fraction: float, total: float, text: str) -> None:
            told.append((fraction, total, text))
            if len(told) == 4:
                repeated.set()

        notifier = Notifier(report, quiet_s=0.01)
        await notifier.tell(0.5, "shape")
        await notifier.tell(0.4, "shape")
        await notifier.tell(0.6, "texture")
        task = asyncio.create_task(notifier.repeat())
        await repeated.wait()
        task.cancel()

    asyncio.run(asyncio.wait_for(work(), PATIENCE_S))
    assert [text for *_, text in told[:4]] == ["shape", "texture", "texture", "texture"]
    fractions = [fraction for fraction, *_ in told]
    assert fractions == sorted(set(fractions))
    assert 0.6 < fractions[3] < 0.61
