"""Progress of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.server import SMALL, Server, picture
from trellis2_server.client import Health, JobState
from trellis2_server.client.progress import ProgressTracker
from trellis2_server.client.protocol.actions import Notice

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.engines import GatedEngine
    from trellis2_server.client import Progress

    Ask = Callable[..., Any]


def test_progress_reaches_its_end_and_never_decreases(
    ask: Ask, server: Server, engine: GatedEngine
) -> None:
    found: list[Progress] = []
    for stage in ("shape", "texture"):
        engine.gates[stage].clear()

    def record(progress: Progress) -> None:
        found.append(progress)
        stage = progress.text.partition(":")[0]
        if stage in engine.gates:
            engine.gates[stage].set()

    ask(server, "generate", picture(1), on_progress=record, **SMALL)
    fractions = [each.fraction for each in found]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)
    words = " ".join(each.text for each in found)
    assert "shape" in words
    assert "texture" in words
    assert found[-1].text.startswith("download: ")
    assert not any(each.is_trouble for each in found)


def test_a_job_that_is_submitted_again_starts_at_zero() -> None:
    tracker = ProgressTracker(texture=True)
    first = JobState("first", "texture_processing", progress=0.5)
    assert tracker.read(first).fraction == pytest.approx(0.675)
    notice = tracker.read(Notice("the server has lost the job"))
    assert (notice.fraction, notice.is_trouble, notice.job) == (pytest.approx(0.675), True, first)
    assert tracker.read(JobState("second", "shape_processing")).fraction == 0


@pytest.mark.parametrize(
    ("health", "fraction", "text"),
    [
        (Health("ok"), 1, "the server is ready"),
        (Health("loading"), 0, "the server is loading its model"),
        (Health("loading", stage="weights", progress=0.25), 0.25, "weights, 25%"),
    ],
)
def test_loading_a_model_has_progress(health: Health, fraction: float, text: str) -> None:
    progress = ProgressTracker(texture=True).read(health)
    assert progress.fraction == fraction
    assert progress.text.endswith(text)


@pytest.mark.parametrize(
    ("job", "text"),
    [
        (JobState("a", "shape_processing", queue_position=2), "waiting, position 2 in the queue"),
        (JobState("a", "shape_processing"), "shape"),
        (JobState("a", "texture_processing", stage="bake"), "texture: bake"),
        (JobState("a", "shape_processing", stage="s", step=3, steps=12), "shape: s 3 of 12"),
        (JobState("a", "completed"), "download"),
        (JobState("a", "error", error="out of memory"), "out of memory"),
    ],
)
def test_a_job_is_described_in_a_few_words(job: JobState, text: str) -> None:
    assert ProgressTracker(texture=True).read(job).text == text
