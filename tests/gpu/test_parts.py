from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.gpu.part import PARTS
from tests.gpu.parts.engine_checks import differences, judged
from tests.gpu.parts.low_vram import copied_bytes
from tests.gpu.parts.probe_convolution import divided
from tests.gpu.parts.server_load import quantile
from tests.gpu.parts.steps import count_evaluations
from tests.gpu.random_pipeline import shells


def result(**changed: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "vertices": np.zeros((4, 3), np.float32),
        "faces": np.arange(6).reshape(2, 3),
        "coords": np.arange(12).reshape(4, 3),
        "attrs": np.ones((4, 6), np.float32),
        "resolution": 512,
    }
    return made | changed


def test_equal_results_are_equal_bit_for_bit() -> None:
    found = differences(result(), result())
    assert found["equal"]
    assert "error" not in judged(found, must_be_exact=True)


def test_rows_of_closed_holes_are_not_compared() -> None:
    longer = result(vertices=np.zeros((6, 3), np.float32), faces=np.arange(9).reshape(3, 3))
    assert differences(longer, result())["equal"]


@pytest.mark.parametrize("by", [1e-4, 1e-2])
def test_a_difference_is_measured_and_judged_by_the_tolerance(by: float) -> None:
    found = differences(result(), result(attrs=np.full((4, 6), 1 + by, np.float32)))
    assert not found["equal"]
    assert found["max_difference"] == pytest.approx(by, rel=1e-2)
    assert ("error" in judged(found, must_be_exact=False)) == (by > 2e-3)
    assert judged(found, must_be_exact=True)["error"] == "not equal bit for bit"


def test_other_voxels_are_never_within_the_tolerance() -> None:
    found = differences(result(), result(coords=np.arange(12)[::-1].reshape(4, 3)))
    assert judged(found, must_be_exact=False)["error"].endswith("or other voxels")


def test_a_changed_face_alone_is_a_difference() -> None:
    found = differences(result(), result(faces=np.array([[0, 1, 2], [3, 5, 4]])))
    assert found["different_faces"] == 1
    assert "error" in judged(found, must_be_exact=True)


def test_copies_are_counted_by_direction_and_kind_of_memory() -> None:
    def copy(name: str, size: float) -> dict[str, Any]:
        return {"cat": "gpu_memcpy", "name": f"Memcpy {name}", "args": {"bytes": size}}

    found = copied_bytes(
        [
            copy("HtoD (Pinned -> Device)", 2e9),
            copy("HtoD (Pageable -> Device)", 1e9),
            copy("DtoH (Device -> Pageable)", 3e9),
            copy("HtoD (Pinned -> Device)", 2e9),
            copy("DtoD (Device -> Device)", 9e9),
            {"cat": "kernel", "name": "Memcpy HtoD"},
        ]
    )
    assert found == {"HtoD_pinned_gb": 4.0, "HtoD_pageable_gb": 1.0, "DtoH_pageable_gb": 3.0}


def test_a_quantile_is_a_measured_value() -> None:
    values = [float(v) for v in range(100, 0, -1)]
    assert quantile(values, 0.99) == 100.0
    assert quantile(values, 0.5) == 51.0
    assert quantile([3.0], 0.99) == 3.0


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="needs torch")


def test_evaluations_are_counted_through_the_sampler_itself(torch: Any) -> None:
    def sample(model: Any, noise: Any, *, steps: int, **_: Any) -> None:
        for step in range(steps):
            model(noise, step)
            if step < 2:
                model(noise, step)

    assert count_evaluations(torch, SimpleNamespace(sample=sample), {"steps": 12}) == 14


def test_voxels_are_distinct_and_as_many_as_wanted(torch: Any) -> None:
    voxels = shells(torch, 16, 500)
    assert voxels.shape == (500, 4)
    assert voxels.dtype == torch.int32
    assert len(torch.unique(voxels, dim=0)) == 500
    assert 0 <= int(voxels.min()) <= int(voxels.max()) < 16


def test_each_voxel_is_divided_into_a_sheet_of_four(torch: Any) -> None:
    coords = torch.tensor([[0, 1, 2, 3]], dtype=torch.int32)
    assert divided(torch, coords).tolist() == [
        [0, 2, 4, 6], [0, 2, 4, 7], [0, 2, 5, 6], [0, 2, 5, 7]
    ]  # fmt: skip


def test_every_part_has_a_module_that_can_be_imported() -> None:
    for part in PARTS:
        __import__(part.module, fromlist=["run"]).run  # noqa: B018 - it is there
