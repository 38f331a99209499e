from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.trellis2_engine import make, options, picture
from trellis2_server.engines.trellis2.arrays import (
    pack_signs,
    to_array,
    to_field,
    to_mesh,
    unpack_signs,
)
from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from trellis2_server.engines.trellis2 import Trellis2Engine


def test_the_mesh_and_the_field_are_what_the_exporter_expects(loaded: Trellis2Engine) -> None:
    shape, field = make(loaded, picture(), options())
    mesh = shape.mesh
    assert (mesh.vertices.dtype, mesh.faces.dtype) == (np.float32, np.int32)
    assert np.abs(mesh.vertices).max() <= 0.6
    assert mesh.faces.max() < len(mesh.vertices) == len(field.coords)
    assert (field.coords.dtype, field.attributes.dtype) == (np.int32, np.float32)
    assert field.coords.min() >= 0
    assert field.coords.max() < field.resolution == 512
    assert field.attributes.shape == (len(field.coords), 6)


def test_the_signs_of_logits_survive_packing(torch: Any) -> None:
    logits = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    packed = pack_signs(logits)
    assert (packed.dtype, packed.shape) == (np.uint8, (50, 1))
    assert np.array_equal(unpack_signs(packed), (logits > 0).numpy())


def test_an_array_is_a_copy_of_the_tensor(torch: Any) -> None:
    tensor = torch.arange(6, dtype=torch.bfloat16).view(2, 3).t()
    array = to_array(tensor, np.float32)
    assert array.flags.owndata
    assert array.flags.c_contiguous
    assert array.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_unusable_results_are_errors(torch: Any) -> None:
    def voxels(columns: int, value: float) -> Any:
        return SimpleNamespace(
            feats=torch.full((4, columns), value), coords=torch.zeros(4, 4, dtype=torch.int32)
        )

    assert to_field(voxels(6, 0.5), 512).attributes.shape == (4, 6)
    for columns, value in ((5, 0.5), (6, float("nan")), (6, float("inf"))):
        with pytest.raises(EngineError, match="no usable texture"):
            to_field(voxels(columns, value), 512)
    faces = torch.tensor([[0, 1, 2]])
    with pytest.raises(EngineError, match="no surface"):
        to_mesh(SimpleNamespace(vertices=torch.zeros(3, 3), faces=faces[:0]))
    with pytest.raises(EngineError, match="not finite"):
        to_mesh(SimpleNamespace(vertices=torch.full((3, 3), float("nan")), faces=faces))
