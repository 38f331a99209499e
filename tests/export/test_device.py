"""The exporter's torch path, on tensors on the CPU, against its loops."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from tests.support import dual_grid, shapes  # noqa: E402
from trellis2_server import export  # noqa: E402
from trellis2_server.errors import ExportError  # noqa: E402
from trellis2_server.export import bake, clean, device, textures  # noqa: E402
from trellis2_server.export.adjacency import twins  # noqa: E402
from trellis2_server.export.kernels import unwrap as kernels  # noqa: E402
from trellis2_server.export.unwrap import group, unwrap  # noqa: E402
from trellis2_server.mesh import VoxelField  # noqa: E402


def on_torch(field: VoxelField) -> VoxelField:
    return VoxelField(
        torch.from_numpy(field.coords), torch.from_numpy(field.attributes), field.resolution
    )


@pytest.mark.parametrize("shape", [*shapes.ALL, "cloth", "crowded"])
@pytest.mark.parametrize("is_projected", [False, True])
def test_the_same_textures_come_out_to_rounding(shape: str, *, is_projected: bool) -> None:
    make = (shapes.ALL | dual_grid.REAL)[shape]
    original = clean.checked(make())
    mesh, field = export.prepare(original, decimation_target=1500), shapes.field(32)
    atlas = unwrap(mesh, 128)
    surface = original if is_projected else None
    ours = bake.bake(mesh, atlas, bake.index(field, surface))
    theirs = device.bake(mesh, atlas, on_torch(field), surface)
    # Centres exactly on an edge may go to either face.
    assert (ours.covered != theirs.covered).mean() < 2e-3
    both = (ours.covered > 0) & (theirs.covered > 0)
    for name in ("base_color", "metal_rough"):
        apart = np.abs(getattr(ours, name).astype(int) - getattr(theirs, name))
        assert apart[both].max(axis=-1).mean() < 0.05
        assert (apart[both].max(axis=-1) > 1).mean() < 5e-3
        assert (apart.max(axis=-1) > 2).mean() < 2e-2


@pytest.mark.parametrize("shape", [*shapes.ALL, "cloth", "crowded"])
def test_groups_are_connected_and_as_good_as_those_of_the_loops(shape: str) -> None:
    make = (shapes.ALL | dual_grid.REAL)[shape]
    mesh = export.prepare(clean.checked(make()), decimation_target=4000)
    charts: list[np.ndarray] = []
    areas: list[float] = []
    for grouping in (None, device.grouping("cpu")):
        atlas = unwrap(mesh, 512, grouping=grouping)
        charts.append(atlas.chart)
        flat = atlas.uv[atlas.faces].astype(np.float64)
        p, q = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
        areas.append(float(np.abs(p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum()))
        # Every chart hangs together, and there are no more than that.
        parts = np.empty_like(atlas.chart)
        twin = twins(mesh.faces, len(mesh.vertices))
        count = kernels.connect(twin, atlas.chart, parts, np.empty_like(parts))
        assert count == len(np.unique(atlas.chart)) == atlas.chart.max() + 1
    ours, theirs = (chart.max() + 1 for chart in charts)
    assert theirs <= 1.3 * ours + 8
    assert areas[1] > 0.9 * areas[0]


def test_the_same_mesh_has_the_same_groups() -> None:
    mesh = export.prepare(shapes.ALL["noisy_blob"](), decimation_target=4000)
    first, second = (unwrap(mesh, 256, grouping=device.grouping("cpu")) for _ in range(2))
    np.testing.assert_array_equal(first.uv, second.uv)


def test_texels_are_filled_as_the_loops_fill_them() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (96, 96, 4)).astype(np.uint8)
    covered = (rng.random((96, 96)) < 0.05).astype(np.uint8)
    image[covered == 0] = 0
    # Metallic and roughness: the first channel repeats the second.
    base_color, metal_rough = image.copy(), np.ascontiguousarray(image[..., [1, 1, 2]])
    wanted = base_color.copy(), metal_rough.copy()
    bake._fill(*wanted, covered)
    for map_, filled in zip((base_color, metal_rough), wanted, strict=True):
        found = device.fill(torch.from_numpy(map_), torch.from_numpy(covered) != 0)
        np.testing.assert_array_equal(found.numpy(), filled)


def test_voxels_are_sampled_as_the_loops_sample_them() -> None:
    rng = np.random.default_rng(2)
    full = shapes.field(20)
    keep = rng.random(len(full.coords)) < 0.3
    field = VoxelField(full.coords[keep], full.attributes[keep], 20)
    points = rng.uniform(-0.55, 0.55, (2000, 3))
    tensors = on_torch(field)
    values, found = device.sample(
        torch.from_numpy(points), tensors.coords, tensors.attributes, field.resolution
    )
    wanted = bake.look_up(points, field)
    np.testing.assert_array_equal(found.numpy(), np.isfinite(wanted[:, 0]))
    np.testing.assert_allclose(values[found].numpy(), wanted[found.numpy()], atol=1e-6)


@pytest.mark.parametrize("shape", ["sphere", "links", "soup", "needles"])
def test_the_closest_points_are_as_close(shape: str) -> None:
    mesh = clean.checked(shapes.ALL[shape]())
    points = np.random.default_rng(3).uniform(-0.6, 0.6, (500, 3))
    found = device.project(
        torch.from_numpy(points), torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
    ).numpy()
    wanted = bake.project(points, mesh)
    away, best = (np.linalg.norm(p - points, axis=1) for p in (found, wanted))
    np.testing.assert_allclose(away, best, atol=1e-6)


@pytest.mark.parametrize("is_on_device", [False, True])
def test_a_field_of_tensors_makes_the_same_file(
    monkeypatch: pytest.MonkeyPatch, *, is_on_device: bool
) -> None:
    original, field = shapes.torus(), shapes.field(32)
    mesh = export.prepare(original, decimation_target=1000)
    options = {"original": original, "texture_size": 128, "texture_format": "png"}
    wanted = export.textured_glb(mesh, field, **options)
    # No device is at hand: tensors on the CPU are taken for ones that are not.
    monkeypatch.setattr(textures, "is_on_device", lambda _: is_on_device)
    # Other charts, as good, would make another file.
    monkeypatch.setattr(device, "grouping", lambda _: group)
    assert export.textured_glb(mesh, on_torch(field), **options) == wanted


def test_tensors_that_are_no_field_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textures, "is_on_device", lambda _: True)
    good = on_torch(shapes.field(4))
    for coords, attributes, words in (
        (good.coords[:, :2], good.attributes, "needs coords"),
        (good.coords[:0], good.attributes[:0], "no voxels"),
        (good.coords + 1, good.attributes, "outside"),
        (good.coords, good.attributes * float("nan"), "not finite"),
    ):
        with pytest.raises(ExportError, match=words):
            export.textured_glb(
                shapes.sphere(4), VoxelField(coords, attributes, 4), texture_size=64
            )
