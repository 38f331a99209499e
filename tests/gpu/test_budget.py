from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.budget import MIN_LIMIT_S, RESERVE_S, Budget
from tests.gpu.part import PARTS, Estimate

ROOT = Path(__file__).resolve().parents[2]
PART = Estimate(host_s=10, device_s=20, tiny_s=3, why="")


class Clock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def budget(seconds: float, clock: Clock, *, is_tiny: bool = False) -> Budget:
    return Budget(seconds, is_tiny=is_tiny, clock=clock)


def test_a_part_starts_only_if_its_estimate_fits_into_what_is_left(clock: Clock) -> None:
    made = budget(30 + RESERVE_S, clock)
    assert made.fits(PART)
    clock.now = 0.5
    assert not made.fits(PART)


def test_a_slower_device_takes_longer_but_the_host_does_not(clock: Clock) -> None:
    made = budget(1000, clock)
    made.note_speed(3.0)
    assert made.seconds(PART) == 10 + 3 * 20


def test_parts_that_ended_correct_the_estimates_of_the_others(clock: Clock) -> None:
    made = budget(1000, clock)
    made.note_part(PART, 10 + 60)
    assert made.seconds(PART) == pytest.approx(70)
    made.note_part(PART, 10 + 20)
    assert made.seconds(PART) == pytest.approx(10 + 40)


def test_what_parts_took_counts_more_than_what_the_probe_measured(clock: Clock) -> None:
    made = budget(1000, clock)
    made.note_part(PART, 30)
    made.note_speed(50.0)
    assert made.slowness == pytest.approx(1.0)


def test_a_part_is_cut_off_at_a_multiple_of_its_estimate_but_never_after_the_end(
    clock: Clock,
) -> None:
    made = budget(1000, clock)
    assert made.limit_s(PART) == 75
    assert made.limit_s(Estimate(1, 1, 1, "")) == MIN_LIMIT_S
    clock.now = 990.0
    assert made.limit_s(PART) == pytest.approx(10 - RESERVE_S)


def test_tiny_models_have_estimates_of_their_own_that_no_device_corrects(clock: Clock) -> None:
    made = budget(1000, clock, is_tiny=True)
    made.note_part(PART, 500)
    assert made.seconds(PART) == 3


def test_the_parts_that_matter_most_fit_into_seven_minutes(clock: Clock) -> None:
    made = budget(420, clock)
    for part in PARTS[: [part.name for part in PARTS].index("whole")]:
        assert made.fits(part.estimate), part.name
        clock.now += made.seconds(part.estimate)


def test_the_documentation_has_every_part_with_its_estimate() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text("utf-8")
    lines = text[text.index("| part | measures |") :].splitlines()
    for part in PARTS:
        (row,) = (line for line in lines if line.startswith(f"| `{part.name}` |"))
        seconds = part.estimate.host_s + part.estimate.device_s
        assert row.split("|")[3].split(",")[0].strip() == f"{seconds:.0f}", part.name


def test_every_estimate_has_a_reason() -> None:
    assert all(part.estimate.why for part in PARTS)
