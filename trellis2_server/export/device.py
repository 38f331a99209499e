"""What `bake` does, and grouping faces into charts, in PyTorch, where the field is on a device.

The same steps with the same rules: rasterise in UV space, project onto the original surface,
sample the voxels, fill. Groups are as good as the loops', but not the same: of neighbours, all
that suit each other best are joined at once. What is added up in any order is added as integers,
so that the same input has the same groups. Imported only where a field's arrays are tensors.
Checked against the CPU's loops with tensors on the CPU; it was never run, nor timed, on a GPU.

What this module does not know: image formats, how the atlas was made.
"""

from __future__ import annotations

import importlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import ExportError
from trellis2_server.export.bake import Maps
from trellis2_server.export.unwrap import (
    SMALL_TEXELS,
    SMOOTHINGS,
    SPREAD,
    SPREAD_SMALL,
    WAYS,
)
from trellis2_server.mesh import VoxelField

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trellis2_server.export.unwrap import Atlas, Grouping
    from trellis2_server.mesh import Mesh

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Pairs of a face and a texel, or of a point and a face, that are looked at in one go.
_AT_ONCE: Final = 1 << 22
#: Half the width of the box of cells, around the one with the point, that is searched next.
_RINGS: Final = (0, 1, 2, 4, 8, 16, 32)
#: The surface's area, and the length of all borders, as an integer.
_WHOLE: Final = float(1 << 40)


def bake(
    mesh: Mesh,
    atlas: Atlas,
    field: VoxelField,
    original: Mesh | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> Maps:
    """The field's colours on the surface of `mesh`, as textures for `atlas`: see `bake.bake`.

    Args:
        mesh: what the atlas was made of.
        atlas: where each face lies.
        field: tensors, all on one device, where the work is done.
        original: where given, each point moves to the closest point of this surface first.
        report: called between steps with "bake", the step and their number.
    """
    size, steps = atlas.size_px, 3

    def tell(step: int) -> None:
        if report:
            report("bake", step, steps)

    field = checked_field(field)
    attributes: Tensor = field.attributes
    device = attributes.device
    uv, faces, source = (_tensor(a, device) for a in (atlas.uv, atlas.faces, atlas.source))
    tell(0)
    owner = raster(uv, faces, size, gutter=3 if size >= 1024 else 2)  # noqa: PLR2004
    tell(1)
    texel = (owner.reshape(-1) != -1).nonzero()[:, 0]
    face = owner.reshape(-1)[texel]
    is_gutter = face < 0
    face = torch.where(is_gutter, -2 - face, face).long()
    vertices = _tensor(mesh.vertices, device).double()
    places = _places(texel, face, uv, faces.long(), vertices[source.long()], size)
    if original is not None:
        surface = _tensor(original.vertices, device), _tensor(original.faces, device)
        places = project(places, *surface)
    values, is_found = sample(places, field.coords, attributes, field.resolution)
    byte = (values[is_found] * 255.0 + 0.5).to(torch.uint8)
    texel, is_gutter = texel[is_found], is_gutter[is_found]
    covered = torch.zeros(size * size, dtype=torch.uint8, device=device)
    covered[texel] = 1 + is_gutter.to(torch.uint8)
    maps = torch.zeros((size * size, 7), dtype=torch.uint8, device=device)
    maps[texel] = byte[:, [0, 1, 2, 5, 4, 4, 3]]
    tell(2)
    known = covered.reshape(size, size)
    filled = fill(maps.reshape(size, size, 7), known != 0)
    base_color, metal_rough = filled[..., :4], filled[..., 4:]
    maps = Maps(
        base_color.contiguous().cpu().numpy(),
        metal_rough.contiguous().cpu().numpy(),
        known.cpu().numpy(),
    )
    tell(3)
    return maps


def checked_field(field: VoxelField) -> VoxelField:
    """The same field, its attributes float32.

    Raises:
        ExportError: a shape, a coordinate or a value is wrong; the sentence says which.
    """
    coords: Tensor = field.coords
    attributes: Tensor = field.attributes
    if coords.ndim != 2 or coords.shape[1] != 3 or attributes.shape != (len(coords), 6):  # noqa: PLR2004
        raise ExportError("A field needs coords [V, 3] and attributes [V, 6].")
    if len(coords) == 0:
        raise ExportError("The field has no voxels.")
    if int(coords.min()) < 0 or int(coords.max()) >= field.resolution:
        raise ExportError("A voxel of the field lies outside its resolution.")
    if not bool(torch.isfinite(attributes).all()):
        raise ExportError("An attribute of the field is not finite.")
    return VoxelField(coords, attributes.float(), int(field.resolution))


def _tensor(array: Any, device: Any) -> Tensor:
    return array.to(device) if isinstance(array, torch.Tensor) else torch.tensor(array).to(device)


def _ragged(count: Tensor) -> tuple[Tensor, Tensor]:
    """For rows that have `count` items each: the row of every item, and its number there."""
    row = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    first = torch.cumsum(count, 0) - count
    return row, torch.arange(len(row), device=count.device) - first[row]


def _portions(count: Tensor) -> list[tuple[int, int]]:
    """Ranges of rows with about `_AT_ONCE` items in all, at least one row each."""
    total = torch.cumsum(count, 0).cpu()
    cuts, done = [0], 0
    while cuts[-1] < len(total):
        stop = int(torch.searchsorted(total, done + _AT_ONCE, right=True))
        stop = min(max(stop, cuts[-1] + 1), len(total))
        done = int(total[stop - 1])
        cuts.append(stop)
    return list(pairwise(cuts))


def raster(uv: Tensor, faces: Tensor, size: int, gutter: int) -> Tensor:
    """The face of each texel, int32 [S, S]: -1 none, -2 - face in the gutter beside it.

    Where several cover a texel's centre, the last one has it. A texel of which none covers the
    centre goes to the first whose middle lies in it.
    """
    corner = uv[faces.long()].double()
    low = torch.ceil(corner.amin(1) - 0.5).long().clamp(min=0)
    high = torch.floor(corner.amax(1) - 0.5).long().clamp(max=size - 1)
    extent = (high - low + 1).clamp(min=0)
    count = extent[:, 0] * extent[:, 1]
    owner = torch.full((size * size,), -1, dtype=torch.int64, device=uv.device)
    for start, stop in _portions(count):
        row, item = _ragged(count[start:stop])
        row += start
        column = low[row, 0] + item % extent[row, 0].clamp(min=1)
        line = low[row, 1] + item // extent[row, 0].clamp(min=1)
        point = torch.stack([column, line], 1).double() + 0.5
        a, b, c = corner[row].unbind(1)
        sides = torch.stack([_side(a, b, point), _side(b, c, point), _side(c, a, point)])
        inside = (sides >= 0).all(0) | (sides <= 0).all(0)
        inside &= (sides != 0).any(0)
        owner.scatter_reduce_(0, (line * size + column)[inside], row[inside], "amax")
    # Each face takes the texel that its middle lies in, if that is free.
    middle = corner.mean(1).long().clamp(0, size - 1)
    place = middle[:, 1] * size + middle[:, 0]
    is_free = owner[place] == -1
    first = torch.full_like(owner, len(faces))
    first.scatter_reduce_(0, place[is_free], is_free.nonzero()[:, 0], "amin")
    owner = torch.where(first < len(faces), first, owner).reshape(size, size)
    for _ in range(gutter):
        owner = _widen(owner)
    return owner.int()


def _side(p: Tensor, q: Tensor, at: Tensor) -> Tensor:
    return (q[:, 0] - p[:, 0]) * (at[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (at[:, 0] - p[:, 0])


def _widen(owner: Tensor) -> Tensor:
    size = owner.shape[0]
    padded = torch.nn.functional.pad(owner, (1, 1, 1, 1), value=-1)
    wider = owner.clone()
    # The four sides first, then the corners.
    for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)):
        near = padded[1 + dy : 1 + dy + size, 1 + dx : 1 + dx + size]
        near = torch.where(near >= 0, -2 - near, near)
        wider = torch.where((owner == -1) & (wider == -1), near, wider)
    return wider


def _places(  # noqa: PLR0913, PLR0917 - texels, and what lies under them
    texel: Tensor, face: Tensor, uv: Tensor, faces: Tensor, vertices: Tensor, size: int
) -> Tensor:
    """The place on the surface of each texel's centre, float64 [N, 3], never off its face."""
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


def project(points: Tensor, vertices: Tensor, faces: Tensor) -> Tensor:
    """The closest point of the surface to each of the points, float64 [N, 3].

    Faces are listed by the cells of a uniform grid; boxes of cells around the point grow until
    nothing outside the box can be closer.
    """
    vertices, faces = vertices.double(), faces.long()
    corner = vertices[faces]
    low, high = vertices.amin(0), vertices.amax(0)
    longest = float((high - low).max().clamp(min=1e-6))
    cell = max(longest / 256, 2.0 * longest * (2.0 / len(faces)) ** 0.5)
    sides = ((high - low) / cell).long() + 1
    first, members = _list_faces(corner, low, cell, sides)
    found = points.clone()
    square = torch.full((len(points),), torch.inf, dtype=torch.float64, device=points.device)
    home = torch.minimum(((points - low) / cell).floor().long().clamp(min=0), sides - 1)
    waiting = torch.arange(len(points), device=points.device)
    for ring in _RINGS:
        if len(waiting) == 0:
            break
        _search(waiting, points, home, ring, sides, first, members, corner, found, square)
        # How far the box of cells reaches beyond the point on its closest side.
        at = points[waiting] - low
        reach = torch.minimum(
            at - (home[waiting] - ring) * cell, (home[waiting] + ring + 1) * cell - at
        ).amin(1)
        waiting = waiting[square[waiting].sqrt() > reach]
    if len(waiting):
        _search(
            waiting, points, home, int(sides.max()), sides, first, members, corner, found, square
        )
    return found


def _list_faces(corner: Tensor, low: Tensor, cell: float, sides: Tensor) -> tuple[Tensor, Tensor]:
    """The faces whose boxes touch each cell: `members[first[c]:first[c + 1]]`, ascending."""
    start = torch.minimum(((corner.amin(1) - low) / cell).long(), sides - 1)
    stop = torch.minimum(((corner.amax(1) - low) / cell).long(), sides - 1)
    extent = stop - start + 1
    count = extent.prod(1)
    row, item = _ragged(count)
    k = start[row, 2] + item % extent[row, 2]
    item = item // extent[row, 2]
    j = start[row, 1] + item % extent[row, 1]
    i = start[row, 0] + item // extent[row, 1]
    cells = (i * sides[1] + j) * sides[2] + k
    order = torch.argsort(cells, stable=True)
    amount = torch.bincount(cells, minlength=int(sides.prod()))
    first = torch.zeros(len(amount) + 1, dtype=torch.int64, device=corner.device)
    torch.cumsum(amount, 0, out=first[1:])
    return first, row[order]


def _search(  # noqa: PLR0913, PLR0917 - the points, the cells, and what is known so far
    which: Tensor,
    points: Tensor,
    home: Tensor,
    ring: int,
    sides: Tensor,
    first: Tensor,
    members: Tensor,
    corner: Tensor,
    found: Tensor,
    square: Tensor,
) -> None:
    """Look at all faces in the box of cells around each point, and keep the closest."""
    low = (home[which] - ring).clamp(min=0)
    high = torch.minimum(home[which] + ring, sides - 1)
    # A row of cells along the last axis is one range of members.
    across = high[:, :2] - low[:, :2] + 1
    rows, item = _ragged(across.prod(1))
    i = low[rows, 0] + item // across[rows, 1]
    j = low[rows, 1] + item % across[rows, 1]
    line = (i * sides[1] + j) * sides[2]
    low_of, high_of = corner.amin(1), corner.amax(1)
    begin, end = first[line + low[rows, 2]], first[line + high[rows, 2] + 1]
    for start, stop in _portions(end - begin):
        row, item = _ragged((end - begin)[start:stop])
        point = which[rows[start + row]]
        face = members[begin[start + row] + item]
        # Most are farther, by their boxes already, than what was found before.
        beyond = torch.maximum(low_of[face] - points[point], points[point] - high_of[face])
        near = (beyond.clamp(min=0.0) ** 2).sum(1) <= square[point]
        point, face = point[near], face[near]
        if len(face) == 0:
            continue
        at = closest_on_faces(points[point], corner[face])
        away = ((at - points[point]) ** 2).sum(1)
        best = torch.full_like(square, torch.inf)
        best.scatter_reduce_(0, point, away, "amin")
        is_best = (away == best[point]) & (away < square[point])
        # Of faces equally close, the last written: they meet in that point.
        found[point[is_best]] = at[is_best]
        square[point[is_best]] = away[is_best]


def closest_on_faces(p: Tensor, corner: Tensor) -> Tensor:
    """The closest point of each face to each point, float64 [N, 3], both in pairs.

    Ericson, "Real-Time Collision Detection" (2005), 5.1.5: by Voronoi regions.
    """
    a = corner[:, 0]
    u, v, w = corner[:, 1] - a, corner[:, 2] - a, p - a
    uu, uv, vv = (u * u).sum(1), (u * v).sum(1), (v * v).sum(1)
    d1, d2 = (u * w).sum(1), (v * w).sum(1)
    d3, d4, d5, d6 = d1 - uu, d2 - uv, d1 - uv, d2 - vv
    vc, vb, va = d1 * d4 - d3 * d2, d5 * d2 - d1 * d6, d3 * d6 - d5 * d4
    zero, one = torch.zeros_like(d1), torch.ones_like(d1)
    whole = va + vb + vc
    span = (d4 - d3) + (d5 - d6)

    def part(value: Tensor, total: Tensor) -> Tensor:
        return torch.where(total > 0, value / torch.where(total > 0, total, one), zero)

    along = part(d4 - d3, span)
    safe = torch.where(whole == 0, one, whole)
    inside = torch.where(whole == 0, zero, vb / safe), torch.where(whole == 0, zero, vc / safe)
    regions = (
        ((d1 <= 0) & (d2 <= 0), zero, zero),
        ((d3 >= 0) & (d4 <= d3), one, zero),
        ((vc <= 0) & (d1 >= 0) & (d3 <= 0), part(d1, d1 - d3), zero),
        ((d6 >= 0) & (d5 <= d6), zero, one),
        ((vb <= 0) & (d2 >= 0) & (d6 <= 0), zero, part(d2, d2 - d6)),
        ((va <= 0) & (d4 - d3 >= 0) & (d5 - d6 >= 0), one - along, along),
    )
    s, t = inside
    for is_here, here_s, here_t in reversed(regions):
        s, t = torch.where(is_here, here_s, s), torch.where(is_here, here_t, t)
    return a + s[:, None] * u + t[:, None] * v


def sample(
    places: Tensor, coords: Tensor, attributes: Tensor, resolution: int
) -> tuple[Tensor, Tensor]:
    """Trilinear over the voxels that are there, their weights renormalised.

    Returns:
        values: float64 [N, 6], in [0, 1].
        is_found: bool [N], whether any voxel was near.
    """
    wide = coords.long()
    keys, order = torch.sort((wide[:, 0] * resolution + wide[:, 1]) * resolution + wide[:, 2])
    values = torch.zeros((len(places), 6), dtype=torch.float64, device=places.device)
    total = torch.zeros(len(places), dtype=torch.float64, device=places.device)
    grid = (places + 0.5) * resolution - 0.5
    base = grid.floor().long()
    for corner in range(8):
        at = base + torch.tensor([corner >> 2, (corner >> 1) & 1, corner & 1], device=places.device)
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
    """The image, uint8 [S, S, C], its unknown texels the mean of the nearest ones (push-pull)."""
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


def grouping(device: Any) -> Grouping:
    """What `unwrap.group` does, on the device."""

    def group(
        vertices: NDArray[np.float32],
        faces: NDArray[np.int32],
        twin: NDArray[np.int32],
        normals: NDArray[np.float32],
        density: float,
    ) -> NDArray[np.int32]:
        found = _group(
            _tensor(vertices, device),
            _tensor(faces, device),
            _tensor(twin, device),
            _tensor(normals, device),
            density,
        )
        return found.cpu().numpy().astype(np.int32)

    return group


def _group(
    vertices: Tensor, faces: Tensor, twin: Tensor, normals: Tensor, density: float
) -> Tensor:
    """The group of each face, int64 [F], from 0 without gaps."""
    twin = twin.long()
    half = (twin > torch.arange(len(twin), device=twin.device)).nonzero()[:, 0]
    low, high = half // 3, twin[half] // 3
    label = _label(normals[:, :3], twin)
    is_inside = label[low] == label[high]
    group = _connect(low[is_inside], high[is_inside], len(faces))
    corner = faces.reshape(-1).long()
    ends = torch.where(half % 3 == 2, half - 2, half + 1)  # noqa: PLR2004
    length = (vertices[corner[half]] - vertices[corner[ends]]).double().norm(dim=1)
    length = (length * (_WHOLE / length.sum().clamp(min=1e-30))).round().long() + 1
    sums, unit = _sum_normals(normals.double(), group)
    small = SMALL_TEXELS / (density * density * unit)
    low, high = group[low], group[high]
    while True:
        low, high, length = _borders(low, high, length, len(sums))
        rim = torch.zeros(len(sums), dtype=torch.int64, device=low.device)
        rim.index_add_(0, low, length).index_add_(0, high, length)
        both = sums[low] + sums[high]
        is_small = torch.minimum(sums[low, 0], sums[high, 0]) < small
        is_fit = _bend(both) <= torch.where(is_small, SPREAD_SMALL, SPREAD)
        share = length.double() / torch.minimum(rim[low], rim[high])
        share = torch.where(is_fit, share, -1.0)
        rank = torch.empty_like(low)
        order = torch.sort(share, descending=True, stable=True).indices
        rank[order] = torch.arange(len(low), device=low.device)
        best = torch.full_like(rim, len(low))
        best.scatter_reduce_(0, low, rank, "amin").scatter_reduce_(0, high, rank, "amin")
        is_best = is_fit & (best[low] == rank) & (best[high] == rank)
        if not bool(is_best.any()):
            return group
        parent = torch.arange(len(sums), device=low.device)
        parent[high[is_best]] = low[is_best]
        names, parent = torch.unique(parent, return_inverse=True)
        sums = torch.zeros_like(sums).index_add_(0, parent, sums)[: len(names)]
        group, low, high = parent[group], parent[low], parent[high]


def _label(normal: Tensor, twin: Tensor) -> Tensor:
    """The direction of `WAYS` that suits each face and its neighbours, int64 [F]."""
    suits = normal @ torch.tensor(WAYS, device=normal.device).T
    label = suits.argmax(1)
    is_there, near = twin.reshape(-1, 3) >= 0, twin.clamp(min=0).reshape(-1, 3) // 3
    for _ in range(SMOOTHINGS):
        around = torch.where(is_there, label[near], -1)
        option = torch.cat([around, label[:, None]], 1)
        alike = (option[:, :, None] == around[:, None, :]).sum(2)
        score = suits.gather(1, option.clamp(min=0)) + 0.16 * alike
        score = torch.where(option < 0, -torch.inf, score)
        is_best = score == score.amax(1, keepdim=True)
        label = torch.where(is_best, option, len(WAYS)).amin(1)
    return label


def _connect(a: Tensor, b: Tensor, count: int) -> Tensor:
    """The connected part that each of `count` nodes belongs to, from 0 without gaps."""
    root = torch.arange(count, device=a.device)
    while True:
        first, second = root[a], root[b]
        least = torch.minimum(first, second)
        hooked = root.clone()
        hooked.scatter_reduce_(0, first, least, "amin").scatter_reduce_(0, second, least, "amin")
        while not torch.equal(hooked, hooked[hooked]):
            hooked = hooked[hooked]
        if torch.equal(hooked, root):
            return torch.unique(root, return_inverse=True)[1]
        root = hooked


def _sum_normals(normals: Tensor, group: Tensor) -> tuple[Tensor, float]:
    """Per group: area, area times normal, and times its six products; and one in that unit.

    Returns:
        sums: int64 [G, 10].
        unit: the area that 1 stands for.
    """
    x, y, z, area = normals.unbind(1)
    one = torch.ones_like(area)
    terms = torch.stack([one, x, y, z, x * x, x * y, x * z, y * y, y * z, z * z], 1)
    # Of all processors the same: a sum of floats depends on who comes first.
    unit = max(float(area.cpu().sum()), 1e-30) / _WHOLE
    terms = (terms * area[:, None] / unit).round().long()
    sums = torch.zeros((int(group.max()) + 1, 10), dtype=torch.int64, device=group.device)
    return sums.index_add_(0, group, terms), unit


def _bend(sums: Tensor) -> Tensor:
    """The mean squared sine between the normals of a group and their mean, float64."""
    area, x, y, z, xx, xy, xz, yy, yz, zz = sums.double().unbind(1)
    square = x * x + y * y + z * z
    along = x * x * xx + y * y * yy + z * z * zz + 2.0 * (x * y * xy + x * z * xz + y * z * yz)
    bend = 1.0 - along / (square * area).clamp(min=1.0)
    # Normals that cancel out have no mean.
    bend = torch.where(square < 0.25 * area * area, torch.inf, bend)
    return torch.where(area > 0, bend, 0.0)


def _borders(
    low: Tensor, high: Tensor, length: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Each pair of groups with a common border once, and how long it is in all."""
    keys = torch.minimum(low, high) * count + torch.maximum(low, high)
    is_apart = low != high
    keys, where = torch.unique(keys[is_apart], return_inverse=True)
    total = torch.zeros(len(keys), dtype=torch.int64, device=low.device)
    total.index_add_(0, where, length[is_apart])
    return torch.div(keys, count, rounding_mode="floor"), keys % count, total
