from __future__ import annotations

import importlib
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
    from collections.abc import Callable

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


def operators(call: Callable[[], object]) -> tuple[list[str], int]:
    """Names of PyTorch's operators that a call runs, and the bytes that it copies."""
    names: list[str] = []
    copied: list[int] = []
    mode = importlib.import_module("torch.utils._python_dispatch").TorchDispatchMode

    class Count(mode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            del types
            names.append(func.overloadpacket.__name__)
            if names[-1] in {"copy_", "_to_copy", "clone"}:
                copied.append(args[0].numel() * args[0].element_size())
            return func(*args, **(kwargs or {}))

    with Count():
        call()
    return names, sum(copied)


@pytest.mark.parametrize("count", [0, 1, 50])
def test_the_signs_of_logits_are_packed_as_numpy_does(torch: Any, count: int) -> None:
    logits = torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
    logits[:1, :3] = torch.tensor([0.0, -0.0, float("nan")])
    signs = (logits > 0).numpy()
    packed = pack_signs(logits)
    assert (packed.dtype, packed.shape) == (np.uint8, (count, 1))
    assert np.array_equal(packed, np.packbits(signs, axis=1))
    unpacked = unpack_signs(torch.from_numpy(packed))
    assert unpacked.dtype == torch.bool
    assert np.array_equal(unpacked.numpy(), np.unpackbits(packed, axis=1).astype(bool))


def test_signs_are_packed_and_unpacked_on_the_device(
    torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("on the CPU")

    for name in ("packbits", "unpackbits", "isfinite"):
        monkeypatch.setattr(np, name, fail)
    logits = torch.ones(9, 8)
    names, _ = operators(lambda: pack_signs(logits))
    assert names.count("copy_") == 1
    assert "_local_scalar_dense" not in names
    packed = torch.from_numpy(pack_signs(logits))
    names, _ = operators(lambda: unpack_signs(packed))
    assert not {"copy_", "_local_scalar_dense"} & set(names)


def test_each_array_is_written_once_and_one_bit_says_whether_it_is_finite(
    torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "isfinite", lambda _: pytest.fail("on the CPU"))
    voxels = SimpleNamespace(feats=torch.rand(9, 6), coords=torch.ones(9, 4, dtype=torch.int32))
    names, copied = operators(lambda: to_field(voxels, 512))
    assert copied == 9 * (6 + 3) * 4
    assert names.count("copy_") == 2
    assert names.count("_local_scalar_dense") == 1
    mesh = SimpleNamespace(vertices=torch.rand(9, 3), faces=torch.ones(5, 3, dtype=torch.int32))
    names, copied = operators(lambda: to_mesh(mesh))
    assert copied == (9 + 5) * 3 * 4
    assert names.count("_local_scalar_dense") == 1


def test_the_narrower_type_travels(torch: Any) -> None:
    names, _ = operators(lambda: to_array(torch.ones(4, dtype=torch.int64), np.int32))
    assert names.index("_to_copy") < names.index("copy_")
    names, _ = operators(lambda: to_array(torch.ones(4, dtype=torch.float16), np.float32))
    assert "_to_copy" not in names


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
