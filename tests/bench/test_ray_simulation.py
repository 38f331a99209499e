"""The simulation behind docs/scale.md, against a formula and against sums that come out even."""

from __future__ import annotations

import numpy as np
import pytest

from bench.ray_simulation import Plant, Simulation, check, simulate


def test_one_gpu_with_one_stage_queues_as_the_formula_says() -> None:
    for load, simulated, formula in check(jobs=40_000):
        assert simulated == pytest.approx(formula, rel=0.06), load


def test_a_job_alone_takes_what_its_parts_take() -> None:
    found = Simulation(Plant(1, 10, 7, 3, 6, 2), np.arange(10) * 1000.0).run()
    assert found.untextured == pytest.approx(np.full(9, 13.0))
    assert found.textured == pytest.approx(np.full(9, 26.0))


def test_a_shape_goes_before_a_texture_that_is_not_due_yet() -> None:
    found = Simulation(Plant(1, 10, 7, 0, 0, 2), np.array([0.0, 1.0])).run()
    assert list(found.untextured) == [10, 19]
    assert list(found.textured) == [27, 33]


def test_many_gpus_are_as_busy_as_they_are_asked_for_and_queue_less() -> None:
    one, many = (
        simulate(plant, 0.8 * plant.most_per_s, 10_000)
        for plant in (Plant(n, 10, 7, 3, 6, 2) for n in (1, 16))
    )
    assert many.gpu_busy == pytest.approx(0.8, abs=0.03)
    assert many.queued.mean() < one.queued.mean() / 5
