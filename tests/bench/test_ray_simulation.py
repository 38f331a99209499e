"""The simulation for docs/scale.md, compared with a formula and with sums."""

from __future__ import annotations

import numpy as np
import pytest

from bench.ray_simulation import Cluster, Simulation, check, simulate


def test_one_gpu_with_one_step_has_the_queue_of_the_formula() -> None:
    for load, simulated, formula in check(jobs=40_000):
        assert simulated == pytest.approx(formula, rel=0.06), load


@pytest.mark.parametrize(("shape_export_s", "textured_s"), [(3, 23), (9, 25)])
def test_a_single_job_makes_its_texture_beside_the_export_of_its_shape(
    shape_export_s: float, textured_s: float
) -> None:
    found = Simulation(Cluster(1, 10, 7, shape_export_s, 6, 2), np.arange(10) * 1000.0).run()
    assert found.untextured == pytest.approx(np.full(9, 10.0 + shape_export_s))
    assert found.textured == pytest.approx(np.full(9, textured_s))


def test_a_shape_starts_before_a_texture_with_a_later_deadline() -> None:
    found = Simulation(Cluster(1, 10, 7, 0, 0, 2), np.array([0.0, 1.0])).run()
    assert list(found.untextured) == [10, 19]
    assert list(found.textured) == [27, 33]


def test_many_gpus_have_the_same_load_and_a_shorter_queue() -> None:
    one, many = (
        simulate(cluster, 0.8 * cluster.capacity_per_s, 10_000)
        for cluster in (Cluster(n, 10, 7, 3, 6, 2) for n in (1, 16))
    )
    assert many.gpu_busy == pytest.approx(0.8, abs=0.03)
    assert many.queued.mean() < one.queued.mean() / 5
