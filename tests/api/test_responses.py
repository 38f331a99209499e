"""Jobs and the server's health as JSON."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.managers import options
from trellis2_server import __version__
from trellis2_server.api.responses import (
    health_reply,
    is_waiting,
    job_reply,
    percent_of,
    status_reply,
)
from trellis2_server.errors import EngineError, JobCancelledError
from trellis2_server.inputs.background import FetchState
from trellis2_server.jobs.job import Job, Progress, Status
from trellis2_server.jobs.service import Health, JobView
from trellis2_server.parameters import fields_of
from trellis2_server.storage.store import Artifact

JOB = Job(
    "uid", options(7), "preview", 50.0, created_unix_s=1000.0, image_hash="a" * 32,
    background="alpha", warnings=("dark",), resolution=512,
    progress=Progress("decode", 0.5, 0, 12), timings={"shape": 1.5},
    details={"back": "mirror"},
)  # fmt: skip
VIEW = JobView(JOB, queue_position=3, eta_s=12.345, files=(), can_export=False)


def test_a_job_in_progress_is_told_with_all_that_is_known() -> None:
    assert status_reply(VIEW).model_dump() == {
        "status": "shape_processing", "uid": "uid", "image_hash": "a" * 32, "engine": "preview",
        "error": None, "queue_position": 3, "stage": "decode", "step": 0, "steps": 12,
        "progress": 0.5, "eta_seconds": 12.3, "resolution": 512, "warnings": ["dark"],
        "details": {"back": "mirror"},
        "shape_ready": False, "texture_ready": False,
    }  # fmt: skip
    reply = job_reply(VIEW)
    assert reply.model_dump().items() >= status_reply(VIEW).model_dump().items()
    assert (reply.created_at, reply.finished_at, reply.background) == (1000.0, None, "alpha")
    assert (reply.seed, reply.parameters) == (7, fields_of(JOB.options))
    assert (reply.files, reply.can_export, reply.timings) == ({}, False, {"shape": 1.5})


def test_a_finished_job_has_its_files_and_its_end() -> None:
    files = (Artifact("uid", "shape.glb", 3), Artifact("uid", "textured.glb", 4))
    done = replace(
        JOB, status=Status.COMPLETED, progress=None, finished_at=57.5, shape_glb=files[0],
        textured_glb=files[1], warnings=(), details={},
    )  # fmt: skip
    reply = job_reply(JobView(done, None, None, files, can_export=True))
    assert {name: (each.bytes, each.url) for name, each in reply.files.items()} == {
        "shape.glb": (3, "jobs/uid/shape.glb"), "textured.glb": (4, "jobs/uid/textured.glb"),
    }  # fmt: skip
    assert (reply.finished_at, reply.can_export) == (1007.5, True)
    assert (reply.shape_ready, reply.texture_ready, reply.status) == (True, True, "completed")
    left_out = (reply.stage, reply.step, reply.steps, reply.progress, reply.eta_seconds)
    assert left_out == (None,) * 5
    assert reply.warnings is None
    assert reply.details is None


def test_each_model_is_ready_by_itself() -> None:
    shape = Artifact("uid", "shape.glb", 3)
    for job, ready in (
        (replace(JOB, shape_glb=shape), (True, False)),
        (replace(JOB, textured_glb=shape), (False, True)),
    ):
        reply = status_reply(replace(VIEW, job=job))
        assert (reply.shape_ready, reply.texture_ready) == ready


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (Status.ERROR, EngineError("no"), ("error", "no")),
        (Status.CANCELLED, JobCancelledError("cancelled"), ("error", "cancelled")),
        (Status.TEXTURE_PROCESSING, None, ("texture_processing", None)),
    ],
)
def test_a_cancelled_job_is_an_error_for_clients(
    status: Status, error: EngineError | None, expected: tuple[str, str | None]
) -> None:
    reply = status_reply(replace(VIEW, job=replace(JOB, status=status, error=error)))
    assert (reply.status, reply.error) == expected


def test_an_estimate_of_nothing_is_told_and_none_is_not() -> None:
    assert status_reply(replace(VIEW, eta_s=0.0)).eta_seconds == 0.0
    assert status_reply(replace(VIEW, eta_s=None)).eta_seconds is None


HEALTH = Health(
    "loading", "preview", error="why", stage="weights", fraction=0.25, is_idle=True,
    is_reloading=True, load_seconds=3.5, notes=["note"], details={"device": "cpu"},
    background_model=FetchState("m", "fetching", "m.onnx", 5, 9),
)  # fmt: skip


def test_only_trusted_clients_get_the_details_of_the_health() -> None:
    assert health_reply(HEALTH, is_trusted=True).model_dump() == {
        "status": "loading", "engine": "preview", "version": __version__, "error": "why",
        "stage": "weights", "progress": 0.25, "idle": True, "reloading": True,
        "load_seconds": 3.5, "notes": ["note"], "details": {"device": "cpu"},
        "background_model": {
            "name": "m", "state": "fetching", "file": "m.onnx", "bytes": 5, "total": 9,
            "error": None,
        },
    }  # fmt: skip
    hidden = health_reply(HEALTH, is_trusted=False).model_dump(exclude_none=True)
    assert hidden == {"status": "loading", "engine": "preview"}


def test_what_there_is_not_is_left_out_of_the_health() -> None:
    reply = health_reply(Health("ok", "preview", fraction=1.0), is_trusted=True)
    assert reply.model_dump(exclude_none=True) == {
        "status": "ok", "engine": "preview", "version": __version__, "details": {},
    }  # fmt: skip
    for state, expected in (
        (FetchState("m", "ready", "m.onnx", 9, 9), {"name": "m", "state": "ready"}),
        (FetchState("m", "fetching", "m.onnx"), {
            "name": "m", "state": "fetching", "file": "m.onnx", "bytes": 0,
        }),
        (FetchState("m", "failed", error="why"), {"name": "m", "state": "failed", "error": "why"}),
    ):  # fmt: skip
        health = Health("ok", "preview", background_model=state)
        model = health_reply(health, is_trusted=True).background_model
        assert model
        assert model.model_dump(exclude_none=True) == expected
    begun = health_reply(Health("loading", "preview", stage="weights"), is_trusted=True)
    assert begun.progress == 0.0


@pytest.mark.parametrize(
    ("status", "fraction", "percent"),
    [
        (Status.SHAPE_PROCESSING, None, 0),
        (Status.SHAPE_PROCESSING, 0.5, 25),
        (Status.TEXTURE_PROCESSING, None, 50),
        (Status.TEXTURE_PROCESSING, 0.5, 75),
        (Status.COMPLETED, None, 100),
        (Status.ERROR, 0.5, 0),
        (Status.CANCELLED, None, 0),
    ],
)
def test_the_progress_of_a_job_is_one_number_whose_first_half_is_the_shape(
    status: Status, fraction: float | None, percent: int
) -> None:
    progress = None if fraction is None else Progress("decode", fraction)
    job = replace(JOB, status=status, progress=progress)
    assert percent_of(job) == percent
    assert is_waiting(job) == ((status, fraction) == (Status.SHAPE_PROCESSING, None))
