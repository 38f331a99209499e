"""How far a status has come, by what its step reports."""

from __future__ import annotations

from trellis2_server.jobs.progress import status_fraction


def test_a_step_that_is_tried_again_is_no_further_than_at_its_begin() -> None:
    assert status_fraction("shape", "retry", 1, 1) == status_fraction("shape", "condition", 0, 1)
    assert status_fraction("texture", "retry", 2, 3) == status_fraction("texture", "texture", 0, 12)
