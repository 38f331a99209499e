"""Progress of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.server import SMALL, Server, picture
from trellis2_server.client import Health, JobState
from trellis2_server.client.progress import ProgressTracker, update_handler
from trellis2_server.client.protocol.actions import DownloadProgress, Notice, ShapeReady

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


# ---- fractions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texture", "job", "fraction"),
    [
        (True, JobState("a", "shape_processing"), 0.0),
        (True, JobState("a", "shape_processing", progress=0.5), 0.2),
        (True, JobState("a", "shape_processing", progress=1.0), 0.4),
        (True, JobState("a", "shape_processing", progress=7.0), 0.4),
        (True, JobState("a", "shape_processing", progress=-7.0), 0.0),
        (True, JobState("a", "texture_processing"), 0.4),
        (True, JobState("a", "texture_processing", progress=1.0), 0.95),
        (True, JobState("a", "completed"), 0.95),
        (False, JobState("a", "shape_processing", progress=0.5), 0.475),
        (False, JobState("a", "completed"), 0.95),
        (True, JobState("a", "error"), 0.0),
    ],
)
def test_a_status_is_a_part_of_the_whole(
    texture: bool,  # noqa: FBT001 - a parameter of the test
    job: JobState,
    fraction: float,
) -> None:
    progress = ProgressTracker(texture=texture).read(job)
    assert progress.fraction == pytest.approx(fraction)
    assert (progress.job, progress.is_trouble, progress.eta_s) == (job, False, None)


def test_a_download_counts_only_once_the_job_has_ended() -> None:
    tracker = ProgressTracker(texture=True)
    half = DownloadProgress(500_000, 1_000_000)
    assert tracker.read(half).fraction == 0
    tracker.read(JobState("a", "texture_processing", progress=0.0))
    assert tracker.read(half).fraction == pytest.approx(0.4)
    state = JobState("a", "completed", eta_seconds=3.0)
    assert tracker.read(state).eta_s == 3.0
    shown = tracker.read(half)
    assert (shown.fraction, shown.job) == (pytest.approx(0.975), state)
    assert shown.text == "download: 0.5 of 1.0 MB"
    assert tracker.read(DownloadProgress(1_000_000, 1_000_000)).fraction == pytest.approx(1)
    assert tracker.read(DownloadProgress(1, 1_000_000)).fraction == pytest.approx(1)
    unknown = tracker.read(DownloadProgress(2_340_000, None))
    assert (unknown.text, unknown.fraction) == ("download: 2.3 MB", pytest.approx(1))


def test_progress_does_not_go_back_within_a_job() -> None:
    tracker = ProgressTracker(texture=True)
    tracker.read(JobState("a", "shape_processing", progress=0.9))
    assert tracker.read(JobState("a", "shape_processing", progress=0.1)).fraction == pytest.approx(
        0.36
    )


@pytest.mark.parametrize(
    ("health", "fraction", "text"),
    [
        (Health("unknown"), 1.0, "the server is ready"),
        (Health("ok", progress=0.5), 1.0, "the server is ready"),
        (Health("loading", progress=0.0), 0.0, "the server is loading its model, 0%"),
        (Health("error", progress=0.25), 0.25, "the server is ready"),
    ],
)
def test_a_server_has_progress(health: Health, fraction: float, text: str) -> None:
    progress = ProgressTracker(texture=True).read(health)
    assert (progress.fraction, progress.text) == (fraction, text)


@pytest.mark.parametrize(
    ("job", "text"),
    [
        (JobState("a", "error"), "failed"),
        (JobState("a", "texture_processing"), "texture"),
        (
            JobState("a", "shape_processing", queue_position=1, stage="s"),
            "waiting, position 1 in the queue",
        ),
        (JobState("a", "shape_processing", stage="s", step=0, steps=2), "shape: s 0 of 2"),
        (JobState("a", "shape_processing", stage="s", step=1), "shape: s"),
        (JobState("a", "shape_processing", stage="s", steps=2), "shape: s"),
    ],
)
def test_what_is_not_known_of_a_job_is_not_said(job: JobState, text: str) -> None:
    assert ProgressTracker(texture=True).read(job).text == text


def test_callbacks_get_what_they_are_for() -> None:
    shapes: list[bytes] = []
    found: list[Progress] = []
    handle = update_handler(found.append, shapes.append)
    handle(JobState("a", "texture_processing", progress=0.0))
    handle(ShapeReady(b"glTF"))
    assert shapes == [b"glTF"]
    assert [each.fraction for each in found] == pytest.approx([0.4, 0.4])
    assert found[1].text == "the untextured model is ready"
    update_handler(None, None)(ShapeReady(b"glTF"))
    update_handler(found.append, texture=False)(JobState("a", "shape_processing", progress=0.5))
    assert found[-1].fraction == pytest.approx(0.475)
    update_handler(None, shapes.append)(Notice("lost"))
    assert shapes == [b"glTF"]
