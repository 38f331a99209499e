"""Baking in PyTorch, with tensors on the CPU, compared with the compiled loops."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from tests.support import dual_grid, shapes  # noqa: E402
from tests.support.sampling import sample_field  # noqa: E402
from trellis2_server import export  # noqa: E402
from trellis2_server.errors import ExportError  # noqa: E402
from trellis2_server.export import bake, textures  # noqa: E402
from trellis2_server.export.device import bake as device_bake  # noqa: E402
from trellis2_server.export.device import grouping  # noqa: E402
from trellis2_server.export.grouping import group_faces  # noqa: E402
from trellis2_server.export.unwrap import unwrap  # noqa: E402
from trellis2_server.export.validation import checked_mesh  # noqa: E402
from trellis2_server.mesh import VoxelField  # noqa: E402


def on_torch(field: VoxelField) -> VoxelField:
    return VoxelField(
        torch.from_numpy(field.coords), torch.from_numpy(field.attributes), field.resolution
    )


@pytest.mark.parametrize("shape", [*shapes.ALL, "cloth", "crowded"])
@pytest.mark.parametrize("is_projected", [False, True])
def test_the_textures_equal_those_of_the_loops_except_for_rounding(
    shape: str, *, is_projected: bool
) -> None:
    make = (shapes.ALL | dual_grid.REAL)[shape]
    original = checked_mesh(make())
    mesh, field = export.prepare(original, decimation_target=1500), shapes.field(32)
    atlas = unwrap(mesh, 128)
    surface = original if is_projected else None
    ours = bake.bake(mesh, atlas, bake.build_index(field, surface))
    theirs = device_bake.bake(mesh, atlas, on_torch(field), surface)
    # A texel whose centre lies exactly on an edge may get either face.
    assert (ours.covered != theirs.covered).mean() < 2e-3
    both = (ours.covered > 0) & (theirs.covered > 0)
    for name in ("base_color", "metal_rough"):
        apart = np.abs(getattr(ours, name).astype(int) - getattr(theirs, name))
        assert apart[both].max(axis=-1).mean() < 0.05
        assert (apart[both].max(axis=-1) > 1).mean() < 5e-3
        assert (apart.max(axis=-1) > 2).mean() < 2e-2


def test_gaps_are_filled_like_in_the_loops() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (96, 96, 4)).astype(np.uint8)
    covered = (rng.random((96, 96)) < 0.05).astype(np.uint8)
    image[covered == 0] = 0
    # Metallic and roughness: the first channel repeats the second.
    base_color, metal_rough = image.copy(), np.ascontiguousarray(image[..., [1, 1, 2]])
    wanted = base_color.copy(), metal_rough.copy()
    bake._fill_gaps(*wanted, covered)
    for map_, filled in zip((base_color, metal_rough), wanted, strict=True):
        found = device_bake.fill(torch.from_numpy(map_), torch.from_numpy(covered) != 0)
        np.testing.assert_array_equal(found.numpy(), filled)


def test_voxels_are_sampled_like_in_the_loops() -> None:
    rng = np.random.default_rng(2)
    full = shapes.field(20)
    keep = rng.random(len(full.coords)) < 0.3
    field = VoxelField(full.coords[keep], full.attributes[keep], 20)
    points = rng.uniform(-0.55, 0.55, (2000, 3))
    tensors = on_torch(field)
    values, found = device_bake.sample(
        torch.from_numpy(points), tensors.coords, tensors.attributes, field.resolution
    )
    wanted = sample_field(points, field)
    np.testing.assert_array_equal(found.numpy(), np.isfinite(wanted[:, 0]))
    np.testing.assert_allclose(values[found].numpy(), wanted[found.numpy()], atol=1e-6)


@pytest.mark.parametrize("is_on_device", [False, True])
def test_a_field_of_tensors_gives_the_same_file(
    monkeypatch: pytest.MonkeyPatch, *, is_on_device: bool
) -> None:
    original, field = shapes.torus(), shapes.field(32)
    mesh = export.prepare(original, decimation_target=1000)
    options = {"original": original, "texture_size": 128, "texture_format": "png"}
    wanted = export.textured_glb(mesh, field, **options)
    # Tensors on the CPU take the place of tensors on a device.
    monkeypatch.setattr(textures, "is_on_device", lambda _: is_on_device)
    # The groups of a device are different, so the file would be too.
    monkeypatch.setattr(grouping, "grouping_on", lambda _: group_faces)
    assert export.textured_glb(mesh, on_torch(field), **options) == wanted


def test_tensors_that_are_not_a_field_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
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
