"""The stand-in for o_voxel compared with o_voxel's own Python, if TRELLIS2_HOME is set."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from trellis2_server.engines.portable import dualgrid  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

Tensor = Any
SOURCE = (
    Path(os.environ.get("TRELLIS2_HOME") or "nowhere")
    / "o-voxel"
    / "o_voxel"
    / "convert"
    / "flexible_dual_grid.py"
)
pytestmark = [
    pytest.mark.skipif(not SOURCE.is_file(), reason="needs TRELLIS2_HOME"),
    # Warnings of the checkout's own code.
    pytest.mark.filterwarnings("ignore:::upstream_o_voxel"),
    pytest.mark.filterwarnings("ignore:Using torch.cross"),
]
#: Value of o_voxel's hash map for a missing voxel, as int32.
ABSENT = -1


class HashMap(ModuleType):
    """The two functions of o_voxel's compiled module that its mesher calls, as a dictionary."""

    def __init__(self) -> None:
        super().__init__("upstream_o_voxel._C")
        self._rows: dict[tuple[int, ...], int] = {}

    def hashmap_insert_3d_idx_as_val_cuda(
        self, keys: Tensor, values: Tensor, coords: Tensor, *size: int
    ) -> None:
        del keys, values, size
        self._rows = {tuple(c): i for i, c in enumerate(coords.tolist())}

    def hashmap_lookup_3d_cuda(
        self, keys: Tensor, values: Tensor, coords: Tensor, *size: int
    ) -> Tensor:
        del keys, values, size
        rows = [self._rows.get(tuple(c), ABSENT) for c in coords.tolist()]
        return torch.tensor(rows, dtype=torch.int32).view(torch.uint32)


@pytest.fixture
def upstream() -> Iterator[Any]:
    """o_voxel's module with that hash map."""
    names = ("upstream_o_voxel", "upstream_o_voxel.convert")
    for name in names:
        package = ModuleType(name)
        package.__path__ = []
        sys.modules[name] = package
    sys.modules["upstream_o_voxel"]._C = HashMap()  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location(f"{names[1]}.flexible_dual_grid", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in names:
        del sys.modules[name]


@pytest.mark.parametrize("share", [0.1, 0.6])
@pytest.mark.parametrize("has_weights", [True, False])
def test_the_mesh_is_what_o_voxels_own_python_makes(
    upstream: Any, share: float, *, has_weights: bool
) -> None:
    made = torch.Generator().manual_seed(7)
    size = 16
    grid = torch.cartesian_prod(*[torch.arange(size)] * 3).int()
    coords = grid[torch.rand(len(grid), generator=made) < share]
    coords = coords[torch.randperm(len(coords), generator=made)]
    count = len(coords)
    dual, weights = torch.rand(count, 3, generator=made), torch.rand(count, 1, generator=made) + 0.1
    flags = torch.rand(count, 3, generator=made) > 0.5
    given = (coords, dual, flags, weights if has_weights else None)
    box = [[-0.5] * 3, [0.5] * 3]
    expected = upstream.flexible_dual_grid_to_mesh(*given, aabb=box, grid_size=size)
    vertices, faces = dualgrid.flexible_dual_grid_to_mesh(*given, aabb=box, grid_size=size)
    assert torch.equal(vertices, expected[0])
    if has_weights:
        assert torch.equal(faces, expected[1].long())
    # Without weights, which TRELLIS.2 always has, o_voxel compares one triangle with itself and
    # splits elsewhere; the quads are the same.
    quads = [f.view(-1, 6).sort(dim=1).values for f in (faces, expected[1].long())]
    assert len(quads[0]) == len(quads[1])
    assert all(set(a) == set(b) for a, b in zip(*(q.tolist() for q in quads), strict=True))
