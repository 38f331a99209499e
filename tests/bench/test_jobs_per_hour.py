from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from bench.jobs_per_hour import MODELS, run

if TYPE_CHECKING:
    import pytest


def test_the_scheduler_runs_jobs_on_the_simulated_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "512", dataclasses.replace(MODELS["512"], speed=200))
    found = asyncio.run(run("512", 2, 3))
    # A job has 3 s on the device, so there are at most 1,200 an hour.
    assert 0 < found["jobs_per_hour"] <= 1200
    assert found["untextured_s"] >= MODELS["512"].shape + MODELS["512"].shape_export
    assert found["gap_s"] >= 0
