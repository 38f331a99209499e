from __future__ import annotations

from trellis2_server.reports import stage_report


def test_the_steps_of_a_stage_are_reported() -> None:
    reports: list[tuple[str, int, int]] = []
    finished = stage_report(lambda *report: reports.append(report), "bake", 3)
    finished(0)
    finished(3)
    assert reports == [("bake", 0, 3), ("bake", 3, 3)]


def test_without_a_callback_nothing_is_reported() -> None:
    stage_report(None, "bake", 3)(1)
