"""The clock of the exporter's benchmark: no time is lost, or counted for another stage."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from bench import export

if TYPE_CHECKING:
    import pytest


def test_every_second_counts_for_the_stage_that_was_reported_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(export.time, "perf_counter", lambda: float(next(seconds)))
    stages = export.Stages()
    reports = [
        *[("unwrap", step, 4) for step in (0, 0, 0, 1, 1, 2, 3, 4, 4)],
        *[("bake", step, 3) for step in (0, 1, 1, 2, 3)],
        *[("encode", 0, 1)] * 3,
        *[("pack", step, 1) for step in (0, 1)],
    ]
    for report in reports:
        stages(*report)
    assert stages.seconds == {
        "unwrap": 8, "rasterize": 2, "bake.1": 1, "bake.2": 2, "bake.3": 1, "bake.4": 1,
        "encode": 3, "pack": 1,
    }  # fmt: skip
    assert sum(stages.seconds.values()) == len(reports)
