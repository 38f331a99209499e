"""Baking of a voxel field into textures, in PyTorch.

Does not know: image formats, how the atlas was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trellis2_server.export.bake import Maps
from trellis2_server.export.device.projection import closest_points
from trellis2_server.export.device.tensors import Tensor, batches, row_items, to_tensor, torch
from trellis2_server.export.validation import check_field
from trellis2_server.mesh import VoxelField
from trellis2_server.reports import stage_report

if TYPE_CHECKING:
    from trellis2_server.export.atlas import Atlas
    from trellis2_server.mesh import Mesh
    from trellis2_server.reports import Report


def bake(
    mesh: Mesh,
    atlas: Atlas,
    field: VoxelField,
    original: Mesh | None = None,
    report: Report | None = None,
) -> Maps:
    """Bake the field's attributes into textures, like `export.bake.bake`.

    Args:
        mesh: mesh of the atlas.
        atlas: texture coordinates.
        field: tensors, all on the device that is used.
        original: surface to whose closest points texels are mapped; None: they are not.
        report: called between steps with "bake", the step and the number of steps.

    Raises:
        ExportError: the field is invalid, see `checked_field`.
    """
    size = atlas.size_px
    finished = stage_report(report, "bake", 3)
    field = checked_field(field)
    attributes: Tensor = field.attributes
    device = attributes.device
    uv, faces, source = (to_tensor(a, device) for a in (atlas.uv, atlas.faces, atlas.source))
    finished(0)
    owner = rasterize(uv, faces, size, gutter=3 if size >= 1024 else 2)  # noqa: PLR2004
    finished(1)
    texel = (owner.reshape(-1) != -1).nonzero()[:, 0]
    face = owner.reshape(-1)[texel]
    is_gutter = face < 0
    face = torch.where(is_gutter, -2 - face, face).long()
    vertices = to_tensor(mesh.vertices, device).double()
    points = _texel_points(texel, face, uv, faces.long(), vertices[source.long()], size)
    if original is not None:
        surface = to_tensor(original.vertices, device), to_tensor(original.faces, device)
        points = closest_points(points, *surface)
    values, is_found = sample(points, field.coords, attributes, field.resolution)
    byte = (values[is_found] * 255.0 + 0.5).to(torch.uint8)
    texel, is_gutter = texel[is_found], is_gutter[is_found]
    covered = torch.zeros(size * size, dtype=torch.uint8, device=device)
    covered[texel] = 1 + is_gutter.to(torch.uint8)
    maps = torch.zeros((size * size, 7), dtype=torch.uint8, device=device)
    maps[texel] = byte[:, [0, 1, 2, 5, 4, 4, 3]]
    finished(2)
    known = covered.reshape(size, size)
    filled = fill(maps.reshape(size, size, 7), known != 0)
    base_color, metal_rough = filled[..., :4], filled[..., 4:]
    maps = Maps(
        base_color.contiguous().cpu().numpy(),
        metal_rough.contiguous().cpu().numpy(),
        known.cpu().numpy(),
    )
    finished(3)
    return maps


def checked_field(field: VoxelField) -> VoxelField:
    """Return the field with attributes float32.

    Args:
        field: tensors.

    Raises:
        ExportError: a shape, a coordinate or a value is invalid.
    """
    coords: Tensor = field.coords
    attributes: Tensor = field.attributes
    check_field(coords, attributes, field.resolution, torch.isfinite)
    return VoxelField(coords, attributes.float(), int(field.resolution))


def rasterize(uv: Tensor, faces: Tensor, size: int, gutter: int) -> Tensor:
    """Return the face of each texel, int32 [S, S].

    If several faces cover the centre of a texel, the last one gets it. A texel whose centre no face
    covers gets the first face whose centroid lies in it.

    Args:
        uv: float32 [M, 2], in texels.
        faces: int32 [F, 3], rows of `uv`.
        size: edge of the texture, texels.
        gutter: width of the gutter around charts, texels.

    Returns:
        A face; -2 - face in the gutter beside the face; -1 elsewhere.
    """
    corner = uv[faces.long()].double()
    low = torch.ceil(corner.amin(1) - 0.5).long().clamp(min=0)
    high = torch.floor(corner.amax(1) - 0.5).long().clamp(max=size - 1)
    extent = (high - low + 1).clamp(min=0)
    count = extent[:, 0] * extent[:, 1]
    owner = torch.full((size * size,), -1, dtype=torch.int64, device=uv.device)
    for start, stop in batches(count):
        row, item = row_items(count[start:stop])
        row += start
        column = low[row, 0] + item % extent[row, 0].clamp(min=1)
        texel_row = low[row, 1] + item // extent[row, 0].clamp(min=1)
        point = torch.stack([column, texel_row], 1).double() + 0.5
        a, b, c = corner[row].unbind(1)
        sides = torch.stack([_side(a, b, point), _side(b, c, point), _side(c, a, point)])
        inside = (sides >= 0).all(0) | (sides <= 0).all(0)
        inside &= (sides != 0).any(0)
        owner.scatter_reduce_(0, (texel_row * size + column)[inside], row[inside], "amax")
    # Assign the texel at the centroid of each face to the face if it is free.
    centroid = corner.mean(1).long().clamp(0, size - 1)
    texel = centroid[:, 1] * size + centroid[:, 0]
    is_free = owner[texel] == -1
    first = torch.full_like(owner, len(faces))
    first.scatter_reduce_(0, texel[is_free], is_free.nonzero()[:, 0], "amin")
    owner = torch.where(first < len(faces), first, owner).reshape(size, size)
    for _ in range(gutter):
        owner = _dilate(owner)
    return owner.int()


def _side(p: Tensor, q: Tensor, at: Tensor) -> Tensor:
    """Return the side of the edge p → q on which a point lies, by its sign."""
    return (q[:, 0] - p[:, 0]) * (at[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (at[:, 0] - p[:, 0])


def _dilate(owner: Tensor) -> Tensor:
    """Extend the faces by a texel of gutter."""
    size = owner.shape[0]
    padded = torch.nn.functional.pad(owner, (1, 1, 1, 1), value=-1)
    dilated = owner.clone()
    # The four edge neighbours first, then the corners.
    for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)):
        near = padded[1 + dy : 1 + dy + size, 1 + dx : 1 + dx + size]
        near = torch.where(near >= 0, -2 - near, near)
        dilated = torch.where((owner == -1) & (dilated == -1), near, dilated)
    return dilated


def _texel_points(  # noqa: PLR0913, PLR0917 - texels and the mesh
    texel: Tensor, face: Tensor, uv: Tensor, faces: Tensor, vertices: Tensor, size: int
) -> Tensor:
    """Return the point of the face at the centre of each texel, clamped to it, float64 [N, 3]."""
    corner = uv[faces[face]].double()
    centre = torch.stack([texel % size, texel // size], 1).double() + 0.5
    u, v, w = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0], centre - corner[:, 0]
    det = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    is_flat = det.abs() <= 1e-12  # noqa: PLR2004
    det = torch.where(is_flat, torch.ones_like(det), det)
    s = (w[:, 0] * v[:, 1] - w[:, 1] * v[:, 0]) / det
    t = (u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0]) / det
    third = torch.full_like(s, 1.0 / 3.0)
    s, t = torch.where(is_flat, third, s), torch.where(is_flat, third, t)
    weight = torch.stack([1.0 - s - t, s, t], 1).clamp(min=0.0)
    weight /= weight.sum(1, keepdim=True)
    return (weight[:, :, None] * vertices[faces[face]]).sum(1)


def sample(
    points: Tensor, coords: Tensor, attributes: Tensor, resolution: int
) -> tuple[Tensor, Tensor]:
    """Interpolate trilinearly over the voxels present, with renormalised weights.

    Args:
        points: float64 [N, 3], in the model frame.
        coords: int [V, 3], voxels.
        attributes: float32 [V, 6].
        resolution: voxels along an edge of the cube.

    Returns:
        values: float64 [N, 6], in [0, 1].
        is_found: bool [N], whether any voxel is near.
    """
    wide = coords.long()
    keys, order = torch.sort((wide[:, 0] * resolution + wide[:, 1]) * resolution + wide[:, 2])
    values = torch.zeros((len(points), 6), dtype=torch.float64, device=points.device)
    total = torch.zeros(len(points), dtype=torch.float64, device=points.device)
    grid = (points + 0.5) * resolution - 0.5
    base = grid.floor().long()
    for corner in range(8):
        at = base + torch.tensor([corner >> 2, (corner >> 1) & 1, corner & 1], device=points.device)
        is_inside = ((at >= 0) & (at < resolution)).all(1)
        key = (at[:, 0] * resolution + at[:, 1]) * resolution + at[:, 2]
        row = torch.searchsorted(keys, key).clamp(max=len(keys) - 1)
        is_there = is_inside & (keys[row] == key)
        weight = torch.where(is_there, (1.0 - (grid - at).abs()).prod(1), torch.zeros_like(total))
        values += weight[:, None] * attributes[order[row]].double()
        total += weight
    is_found = total > 1e-6  # noqa: PLR2004
    values = values / torch.where(is_found, total, torch.ones_like(total))[:, None]
    return values.clamp(0.0, 1.0), is_found


def fill(image: Tensor, known: Tensor) -> Tensor:
    """Fill unknown texels with the mean of the nearest known ones (push-pull).

    Args:
        image: uint8 [S, S, C].
        known: bool [S, S].
    """
    levels = [(image.int(), known)]
    while levels[-1][1].shape[0] > 1:
        fine, here = levels[-1]
        odd = here.shape[0] % 2
        count = torch.nn.functional.pad(here.int(), (0, odd, 0, odd))
        value = torch.nn.functional.pad(fine * here[..., None], (0, 0, 0, odd, 0, odd))
        half = count.shape[0] // 2
        count = count.reshape(half, 2, half, 2).sum((1, 3))
        value = value.reshape(half, 2, half, 2, -1).sum((1, 3))
        safe = count.clamp(min=1)[..., None]
        coarse = torch.div(
            value + torch.div(safe, 2, rounding_mode="floor"), safe, rounding_mode="floor"
        )
        levels.append((coarse * (count > 0)[..., None], count > 0))
    result = levels[-1][0]
    for fine, here in levels[-2::-1]:
        size, last = here.shape[0], result.shape[0] - 1
        at = torch.arange(size, device=image.device)
        near = torch.div(at, 2, rounding_mode="floor")
        far = (near + torch.where(at % 2 == 1, 1, -1)).clamp(0, last)
        upper = 3 * result[:, near] + result[:, far]
        total = 3 * upper[near] + upper[far]
        pushed = torch.div(total + 8, 16, rounding_mode="floor")
        result = torch.where(here[..., None], fine, pushed)
    return result.to(torch.uint8)
