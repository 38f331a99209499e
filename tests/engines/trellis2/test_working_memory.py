from __future__ import annotations

import pytest

from trellis2_server.engines.trellis2.working_memory import (
    WorkingMemory,
    modelled,
    needs_low_vram,
)

GIB = 2**30
#: Of the real models: five of 1292 M parameters and two of 474 M in half precision, DINOv3.
WEIGHTS = 2 * (5 * 1_292_000_000 + 2 * 474_000_000) + 4 * 303_000_000


@pytest.mark.parametrize(
    ("resolution", "gib", "expected"),
    [
        (512, 16, True),
        (512, 20, False),
        (1024, 20, True),
        (1024, 22.5, True),
        (1024, 23.6, False),  # what PyTorch reports of a card with 24 GB
        (1024, 80, False),
        (1536, 23.6, True),
        (1536, 31.3, False),
    ],
)
def test_all_weights_stay_on_a_device_that_has_room_for_a_job_beside_them(
    resolution: int, gib: float, *, expected: bool
) -> None:
    assert needs_low_vram(WEIGHTS, resolution, int(gib * GIB)) is expected


def test_a_device_whose_memory_is_unknown_gets_one_model_at_a_time() -> None:
    assert needs_low_vram(0, 512, None)


def test_smaller_weights_fit_on_smaller_devices() -> None:
    assert not needs_low_vram(WEIGHTS // 2, 1024, 16 * GIB)


def test_the_model_grows_with_the_resolution_and_rounds_it_up() -> None:
    assert modelled(512) < modelled(1024) < modelled(1536)
    assert modelled(1152) == modelled(1536) == modelled(4096)


def test_what_was_measured_replaces_the_model() -> None:
    working = WorkingMemory()
    assert working.expected(1024) == modelled(1024)
    working.note_stage(1024, 3 * GIB)
    working.note_stage(1024, 2 * GIB)
    assert working.expected(1024) == 3 * GIB
    assert working.expected(1536) == modelled(1536)


def test_nothing_fits_before_some_stages_have_run() -> None:
    working = WorkingMemory()
    for _ in range(3):
        working.note_stage(512, 1)
        assert not working.fits(100 * GIB)
    working.note_stage(512, 1)
    assert working.fits(100 * GIB)


def stages(working: WorkingMemory, peak: int, number: int) -> None:
    for _ in range(number):
        working.note_stage(1024, peak)


def test_more_memory_than_was_not_enough_is_waited_for() -> None:
    working = WorkingMemory()
    stages(working, GIB, 4)
    working.note_failure(1024, 6 * GIB)
    stages(working, GIB, 4)
    assert not working.fits(6 * GIB)
    assert not working.fits(7 * GIB)
    assert working.fits(7 * GIB + 1)


def returns(working: WorkingMemory, room: int, most: int = 5000) -> int:
    """Number of small stages after which the weights return."""
    for number in range(most):
        if working.fits(room):
            working.note_return()
            return number
        working.note_stage(512, GIB)
    raise AssertionError("never")


def test_one_large_job_does_not_count_for_ever_but_each_further_one_counts_longer() -> None:
    working, room = WorkingMemory(), 4 * GIB
    waited: list[int] = []
    for _ in range(10):
        working.note_failure(1536, room)
        working.note_stage(1536, 12 * GIB)
        waited.append(returns(working, room))
    assert waited == [8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024]
