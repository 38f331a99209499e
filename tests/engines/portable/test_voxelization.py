"""Mesh → voxels with dual vertices, compared with the definition in numpy."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from torch.overrides import TorchFunctionMode  # noqa: E402

from tests.support.synchronization import waits_for_device  # noqa: E402
from trellis2_server.engines.portable import dualgrid, traversal, voxelization  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

BOX = [[-0.5] * 3, [0.5] * 3]
WEIGHTS = {"face_weight": 1.0, "boundary_weight": 0.2, "regularization_weight": 1e-2}


def soup(count: int, size: float, seed: int) -> tuple[Any, Any]:
    """Triangles without neighbours: all their edges are open."""
    made = np.random.default_rng(seed)
    corners = made.uniform(-0.3, 0.3, (count, 1, 3)) + made.uniform(-size, size, (count, 3, 3))
    faces = torch.arange(3 * count, dtype=torch.int32).view(-1, 3)
    return torch.from_numpy(corners.reshape(-1, 3)).float(), faces


def crossings(
    triangles: np.ndarray, size: int
) -> list[tuple[int, int, tuple[int, ...], np.ndarray]]:
    """Triangle, axis, voxel and point of each grid line's crossing, one triangle at a time."""
    found = []
    for number, triangle in enumerate(triangles):
        for axis in range(3):
            i, j = (axis + 1) % 3, (axis + 2) % 3
            for x, y in itertools.product(range(1, size), repeat=2):
                (ax, ay), (bx, by), (cx, cy) = triangle[:, [i, j]]
                area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
                u = ((bx - x) * (cy - y) - (cx - x) * (by - y)) / area
                v = ((cx - x) * (ay - y) - (ax - x) * (cy - y)) / area
                if min(u, v, 1 - u - v) >= 0:
                    height = u * triangle[0, axis] + v * triangle[1, axis]
                    height += (1 - u - v) * triangle[2, axis]
                    voxel, point = [0] * 3, np.zeros(3)
                    voxel[i], voxel[j], voxel[axis] = x - 1, y - 1, int(height)
                    point[[i, j, axis]] = x, y, height
                    found.append((number, axis, tuple(voxel), point))
    return found


def overlaps(triangle: np.ndarray, voxel: np.ndarray) -> bool:
    """The separating-axis theorem for a triangle and a voxel (Akenine-Möller, 2001)."""
    corners = triangle - voxel - 0.5
    edges = np.roll(corners, -1, axis=0) - corners
    axes = [*np.eye(3), np.cross(edges[0], edges[1])]
    axes += [np.cross(e, a) for e in edges for a in np.eye(3)]
    for axis in axes:
        reach, spread = 0.5 * np.abs(axis).sum(), corners @ axis
        if spread.min() > reach or spread.max() < -reach:
            return False
    return True


def length_inside(start: np.ndarray, end: np.ndarray, voxel: np.ndarray) -> float:
    """Length of a line within a voxel."""
    with np.errstate(divide="ignore"):
        times = (np.stack([voxel, voxel + 1]) - start) / (end - start)
    first, last = times.min(axis=0).max(), times.max(axis=0).min()
    return min(last, 1.0) - max(first, 0.0)


@pytest.mark.parametrize(("seed", "count", "extent"), [(0, 5, 0.3), (1, 14, 0.1), (2, 2, 0.6)])
def test_voxels_flags_and_vertices_are_those_of_the_definition(
    seed: int, count: int, extent: float
) -> None:
    size = 12
    vertices, faces = soup(count, extent, seed)
    vertices = vertices.clamp(-0.49, 0.49)
    coords, dual, flags = voxelization.mesh_to_flexible_dual_grid(
        vertices, faces, grid_size=size, aabb=BOX, **WEIGHTS
    )
    triangles = (vertices.double().numpy() + 0.5)[faces.numpy()] * size
    crossed: dict[tuple[int, ...], set[int]] = {}
    planes: dict[tuple[int, ...], list[int]] = {}
    points: dict[tuple[int, ...], list[np.ndarray]] = {}
    for number, axis, voxel, point in crossings(triangles, size):
        crossed.setdefault(voxel, set()).add(axis)
        for step in itertools.product((0, 1), repeat=2):
            around = list(voxel)
            around[(axis + 1) % 3] += step[0]
            around[(axis + 2) % 3] += step[1]
            planes.setdefault(tuple(around), []).append(number)
            points.setdefault(tuple(around), []).append(point)
    expected = {v: [axis in crossed.get(v, ()) for axis in range(3)] for v in planes}
    got = dict(zip(map(tuple, coords.tolist()), flags.tolist(), strict=True))
    assert got == expected
    assert len(coords) > 50

    made = np.random.default_rng(seed)
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    for row, voxel in enumerate(map(tuple, coords.tolist())):
        corner = np.array(voxel)
        near = [n for n in range(count) if overlaps(triangles[n], corner)]
        mean = np.mean(points[voxel], axis=0)
        lines = [
            (a, (b - a) / np.linalg.norm(b - a))
            for t in triangles
            for a, b in zip(t, np.roll(t, -1, axis=0), strict=True)
            if length_inside(a, b, corner) > 0
        ]

        def error(at: np.ndarray) -> np.ndarray:
            total = 1e-2 * len(points[voxel]) * ((at - mean) ** 2).sum(axis=-1)  # noqa: B023
            for number in [*planes[voxel], *near]:  # noqa: B023
                total = total + ((at - triangles[number, 0]) @ normals[number]) ** 2
            for a, along in lines:  # noqa: B023
                away = at - a
                away = away - (away @ along)[..., None] * along
                total = total + 0.2 * (away**2).sum(axis=-1)
            return total

        at = dual[row].double().numpy() * size
        assert (at >= corner - 1e-5).all()
        assert (at <= corner + 1 + 1e-5).all()
        others = np.concatenate(
            [
                corner + made.uniform(0, 1, (60, 3)),
                np.clip(at + made.normal(0, 1e-2, (60, 3)), corner, corner + 1),
            ]
        )
        assert error(at) <= error(others).min() + 1e-5 * (1 + error(at))


def sphere(count: int) -> tuple[Any, Any]:
    """A closed surface: latitudes and longitudes, the poles as points."""
    theta = np.linspace(0, np.pi, count + 1)[1:-1]
    phi = np.arange(2 * count) * np.pi / count + 0.1
    t, p = np.meshgrid(theta, phi, indexing="ij")
    ring = np.stack([np.sin(t) * np.cos(p), np.sin(t) * np.sin(p), np.cos(t)], -1).reshape(-1, 3)
    points = np.concatenate([ring, [[0, 0, 1], [0, 0, -1]]]) * 0.43 + [0.011, -0.007, 0.003]
    i = np.arange(len(ring)).reshape(t.shape)
    a, b = i, np.roll(i, -1, axis=1)
    faces = [np.stack([a[:-1], a[1:], b[1:]], -1), np.stack([a[:-1], b[1:], b[:-1]], -1)]
    faces += [np.stack([a[0], b[0], 0 * a[0] + len(ring)], -1)]
    faces += [np.stack([b[-1], a[-1], 0 * a[0] + len(ring) + 1], -1)]
    every = np.concatenate([f.reshape(-1, 3) for f in faces])
    return torch.from_numpy(points).float(), torch.from_numpy(every.astype(np.int32))


def test_voxels_and_back_is_the_same_closed_surface() -> None:
    vertices, faces = sphere(40)
    coords, dual, flags = voxelization.mesh_to_flexible_dual_grid(
        vertices, faces, grid_size=64, aabb=BOX, **WEIGHTS
    )
    back, quads = dualgrid.flexible_dual_grid_to_mesh(
        coords, dual * 64 - coords, flags, None, aabb=BOX, grid_size=64
    )
    away = (back.double() - torch.tensor([0.011, -0.007, 0.003])).norm(dim=1) - 0.43
    assert away.abs().max() < 0.3 / 64
    # An edge of the grid that the surface crosses twice is flagged once: a few extra quads.
    edges = torch.cat([quads[:, [0, 1]], quads[:, [1, 2]], quads[:, [2, 0]]]).sort(dim=1).values
    count = torch.unique(edges, dim=0, return_counts=True)[1]
    assert (count % 2 == 0).double().mean() > 0.99


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, faces = soup(40, 0.2, 5)
    whole = voxelization.mesh_to_flexible_dual_grid(
        vertices, faces, voxel_size=1 / 24, aabb=BOX, **WEIGHTS
    )
    monkeypatch.setattr(traversal, "CHUNK_ROWS", 7)
    parts = voxelization.mesh_to_flexible_dual_grid(
        vertices, faces, grid_size=24, aabb=BOX, **WEIGHTS
    )
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[2], parts[2])
    assert torch.allclose(whole[1], parts[1], atol=1e-6)


def test_a_mesh_without_area_has_no_voxels() -> None:
    vertices = torch.zeros(3, 3)
    coords, dual, flags = voxelization.mesh_to_flexible_dual_grid(
        vertices, torch.tensor([[0, 1, 2]]), grid_size=16, aabb=BOX, **WEIGHTS
    )
    assert [tuple(t.shape) for t in (coords, dual, flags)] == [(0, 3)] * 3
    with pytest.raises(ValueError, match="voxel_size or grid_size"):
        voxelization.mesh_to_flexible_dual_grid(vertices, torch.tensor([[0, 1, 2]]), aabb=BOX)


class FakeDevice(TorchFunctionMode):
    """A device with the memory of the CPU: counts the tensors that move there and back.

    Raises `error` where a tensor moves there.
    """

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.there: list[int] = []
        self.back: list[int] = []
        self._error = error

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device = args[1] if func is torch.Tensor.to else (kwargs or {}).get("device")
        if func is torch.Tensor.to and isinstance(device, torch.device):
            moved = self.there if device == AWAY else self.back
            moved.append(len(args[0]))
            if device == AWAY and self._error:
                raise self._error
            return args[0].clone()
        if device == AWAY:  # numbers of the grid, three at most
            kwargs = {**kwargs, "device": "cpu"}
        return func(*args, **(kwargs or {}))


AWAY = torch.device("cuda", 1)


def voxels(vertices: Any, faces: Any) -> tuple[Any, Any, Any]:
    return voxelization.mesh_to_flexible_dual_grid(
        vertices, faces, grid_size=24, aabb=BOX, **WEIGHTS
    )


@pytest.fixture
def away() -> Iterator[None]:
    """Meshes are voxelised on the fake device."""
    voxelization.compute_on("cuda:1")
    yield
    voxelization.compute_on("cpu")


@pytest.mark.usefixtures("away")
def test_a_mesh_on_the_cpu_moves_to_the_device_once_and_its_voxels_back() -> None:
    vertices, faces = soup(20, 0.2, 3)
    with FakeDevice() as device:
        found = voxels(vertices, faces)
    assert device.there == [len(vertices), len(faces)]
    assert device.back == [len(found[0])] * 3
    voxelization.compute_on("cpu")
    expected = voxels(vertices, faces)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.usefixtures("away")
def test_a_mesh_that_does_not_fit_on_the_device_is_voxelised_on_the_cpu(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vertices, faces = soup(20, 0.2, 3)
    with FakeDevice(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nat")) as device:
        found = voxels(vertices, faces)
    assert device.there == [len(vertices)]
    assert device.back == []
    assert len(found[0]) > 50
    assert [(r.levelname, vars(r)["why"]) for r in caplog.records] == [
        ("WARNING", "CUDA out of memory. Tried 2 GiB")
    ]


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", None), ("mps", None), ("cuda:1", AWAY), ("xpu", None)]
)
def test_devices_without_float64_are_not_used(
    device: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = SimpleNamespace(has_fp64=False)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda _: properties)
    voxelization.compute_on(device)
    assert voxelization._place.device == expected
    voxelization.compute_on("cpu")


def test_sums_on_a_device_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, faces = soup(40, 0.2, 5)
    expected = voxels(vertices, faces)

    class OnDevice:
        def __init__(self, sums: Any) -> None:
            self.device = AWAY
            self.index_put_ = sums.index_put_

    accumulate = voxelization._accumulate
    monkeypatch.setattr(
        voxelization, "_accumulate", lambda sums, *args: accumulate(OnDevice(sums), *args)
    )
    found = voxels(vertices, faces)
    assert torch.equal(found[0], expected[0])
    assert torch.allclose(found[1], expected[1], atol=1e-7)


def test_voxelization_waits_for_the_device_only_where_sizes_depend_on_the_mesh() -> None:
    vertices, faces = soup(20, 0.2, 3)
    with waits_for_device() as waits:
        voxels(vertices, faces)
    sizes = {"nonzero", "repeat_interleave", "tolist", "unique_consecutive", "_unique2"}
    # The grid's lowest corner and its numbers of voxels.
    assert [w for w in waits if w not in sizes] == ["list", "as_tensor"]
    assert len(waits) < 60


def test_open_edges_are_those_of_one_face_in_ascending_order() -> None:
    faces = torch.tensor([[4, 2, 0], [0, 2, 1], [1, 2, 3]])
    edges = voxelization._open_edges(faces, 5).tolist()
    assert edges == [[0, 1], [0, 4], [1, 3], [2, 3], [2, 4]]
