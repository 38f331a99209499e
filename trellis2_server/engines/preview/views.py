"""Pictures of an object's other sides: they bound its depth, and go onto back and sides.

    bound_depth   the mesh is as deep at each height as the pictures of its sides show
    paint_views   the field has the colours of each picture where its surface faces that side

Both work on the results of the stages, whichever way these were made. Pictures without a side are
of no use here: nothing says what they show.

Does not know: how a shape or its colours are made from the front.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.engines.preview.sheets import MARGIN_VOXELS, sheets, stretched
from trellis2_server.engines.preview.silhouette import ISO
from trellis2_server.inputs.images.transparency import find_box
from trellis2_server.mesh import Mesh, VoxelField

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.request_fields import Side

#: Heights at which the depths of mesh and pictures are compared.
_ROWS: Final = 64
#: Least depth at a height, as a share of the largest one: what is thinner is noise.
_LEAST_DEPTH: Final = 0.02
#: Least share of its union with the object's outline that a picture's outline has in common.
LEAST_OVERLAP: Final = 0.5
#: Depth behind the first surface that a picture colours, voxels.
_DEPTH_VOXELS: Final = 3
#: Cosines of the angle between surface and view from which on a picture has an effect, and has all.
_FACING: Final = (0.55, 0.85)
#: Half the width of the square over which a depth map is smoothed, voxels.
_SMOOTHING_VOXELS: Final = 2


@dataclass(frozen=True, slots=True)
class _Projection:
    """How voxels are seen from a side.

    Attributes:
        depth: axis along which is looked, x or y.
        sign: 1 if what is nearer has larger values.
        across: axis that is horizontal in the picture.
        is_mirrored: whether it points left.
    """

    depth: int
    sign: int
    across: int
    is_mirrored: bool


#: The front faces -Y, the object's left +X.
_PROJECTIONS: Final[dict[Side, _Projection]] = {
    "left": _Projection(0, 1, 1, is_mirrored=False),
    "back": _Projection(1, 1, 0, is_mirrored=True),
    "right": _Projection(0, -1, 1, is_mirrored=True),
}


def bound_depth(mesh: Mesh, cutout: Cutout, edge: float) -> Mesh:
    """Scale a mesh in depth, at each height by its own factor, to the outlines of its sides.

    It is then within the visual hull of front and sides, and as deep as that at each height. The
    middle plane, y = 0, stays: where the outline lies in front of or behind it is not used.

    Args:
        mesh: in the model frame; closed, and stays so.
        cutout: the pictures, at one scale.
        edge: edge of their squares in the model frame.

    Returns:
        The mesh itself if there is no picture of a side.
    """
    outlines = [_depths(view.rgba) for view in cutout.views if view.side in {"left", "right"}]
    found = [depths for depths in outlines if depths is not None]
    if not found or not len(mesh.vertices):
        return mesh
    scale = edge / len(cutout.rgba)
    rows = np.arange(len(cutout.rgba))
    wanted = np.minimum.reduce(found) * (0.5 * scale)
    at = 0.5 * len(rows) - mesh.vertices[:, 2] / scale - 0.5
    bins = np.linspace(at.min(), at.max(), _ROWS)
    own = _envelope(at, np.abs(mesh.vertices[:, 1]), bins)
    least = _LEAST_DEPTH * max(float(wanted.max()), float(own.max()))
    wanted = np.maximum(wanted, least)
    is_known = own > least
    if not is_known.any():
        return mesh
    factors = np.interp(
        bins, bins[is_known], np.interp(bins, rows, wanted)[is_known] / own[is_known]
    )
    limit = np.interp(at, rows, wanted)
    depth = mesh.vertices[:, 1] * np.interp(at, bins, factors)
    vertices = mesh.vertices.copy()
    vertices[:, 1] = np.clip(depth, -limit, limit)
    return Mesh(vertices, mesh.faces)


def _depths(picture: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Width of the object in each row of a picture of its side, pixels; None: it has none."""
    alpha = picture[..., 3] > ISO * 255
    has_any = alpha.any(axis=1)
    if not has_any.any():
        return None
    size = alpha.shape[1]
    first, last = alpha.argmax(axis=1), size - alpha[:, ::-1].argmax(axis=1)
    rows = np.arange(len(alpha))
    return np.interp(rows, rows[has_any], (last - first)[has_any].astype(np.float64))


def _envelope(
    at: NDArray[np.float32], values: NDArray[np.float32], bins: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Largest value near each bin; where there is none, between those of its neighbours."""
    nearest = np.clip(np.searchsorted(bins, at), 0, len(bins) - 1)
    largest = np.full(len(bins), -1.0)
    for shift in (-1, 0):
        np.maximum.at(largest, np.clip(nearest + shift, 0, len(bins) - 1), values)
    has_any = largest >= 0
    return np.interp(bins, bins[has_any], largest[has_any])


def paint_views(field: VoxelField, cutout: Cutout) -> VoxelField:
    """Return a field with the colours of the pictures of its other sides.

    The object's outline in a picture is stretched over that of the field. A picture colours what is
    nearest to it and faces it; on slanted surfaces it is blended with what was there. A picture
    whose outline differs too much is left out, with a warning.

    Args:
        field: of the whole object, coloured from its front.
        cutout: the pictures.
    """
    warnings = list(field.warnings)
    attributes: NDArray[np.float32] | None = None
    for view in cutout.views:
        projection = None if view.side is None else _PROJECTIONS.get(view.side)
        if projection is None or not len(field.coords):
            continue
        across, depths, nearest = _look(field, projection)
        colours = _fit(view.rgba, nearest >= 0)
        if colours is None:
            warnings.append(
                f"image_{view.side}: not used, its outline differs from that of the object"
            )
            continue
        if attributes is None:
            attributes = np.array(field.attributes)
        weights = _facing(nearest)
        rows = np.flatnonzero(depths > nearest[across, field.coords[:, 2]] - _DEPTH_VOXELS)
        u, v = across[rows], field.coords[rows, 2]
        share = weights[u, v, None]
        attributes[rows, :3] += share * (colours[u, v] - attributes[rows, :3])
    if attributes is None:
        return replace(field, warnings=tuple(warnings))
    return replace(field, attributes=attributes, warnings=tuple(warnings))


def _look(
    field: VoxelField, projection: _Projection
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Column of each voxel, its nearness, and the largest nearness, [column, z]; -1: no voxel."""
    last = field.resolution - 1
    across = field.coords[:, projection.across]
    across = last - across if projection.is_mirrored else across
    depths = field.coords[:, projection.depth]
    depths = depths if projection.sign > 0 else last - depths
    # NumPy has a faster way for one index than for two.
    nearest = np.full(field.resolution**2, -1, np.int32)
    np.maximum.at(nearest, across.astype(np.int64) * field.resolution + field.coords[:, 2], depths)
    return across, depths, nearest.reshape(field.resolution, field.resolution)


def _fit(picture: NDArray[np.uint8], outline: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """Colours of a picture over an outline [column, z], float32 [column, z, RGB], 0 to 1.

    None: the two outlines differ too much.
    """
    size = len(outline)
    columns, heights = np.flatnonzero(outline.any(axis=1)), np.flatnonzero(outline.any(axis=0))
    found, _ = find_box(picture)
    if found is None:
        return None
    low, high = MARGIN_VOXELS, size - MARGIN_VOXELS
    left, right = max(int(columns[0]), low), min(int(columns[-1]) + 1, high)
    bottom, top = max(int(heights[0]), low), min(int(heights[-1]) + 1, high)
    over = stretched(picture, found, size, (left, right), (bottom, top))
    alpha = np.zeros((size, size), bool)
    alpha[low:high, low:high] = over[::-1, :, 3].T > ISO * 255
    overlap = np.count_nonzero(alpha & outline) / max(np.count_nonzero(alpha | outline), 1)
    if overlap < LEAST_OVERLAP:
        return None
    return sheets(over, size, "mirror").front


def _facing(nearest: NDArray[np.int32]) -> NDArray[np.float32]:
    """How much each column of a depth map faces the view, float32 [column, z], 0 to 1."""
    known = (nearest >= 0).astype(np.float32)
    smooth = _blurred(np.maximum(nearest, 0).astype(np.float32)) / np.maximum(_blurred(known), 1e-6)
    slopes = np.gradient(np.where(_blurred(known) > 0, smooth, 0))
    cosine = 1 / np.sqrt(1 + slopes[0] ** 2 + slopes[1] ** 2)
    low, high = _FACING
    share = np.clip((cosine - low) / (high - low), 0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)


def _blurred(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum over a square around each value."""
    width = 2 * _SMOOTHING_VOXELS + 1
    total = values.astype(np.float64)
    for axis in (0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (_SMOOTHING_VOXELS + 1, _SMOOTHING_VOXELS)
        sums = np.cumsum(np.pad(total, padding), axis=axis)
        ends = sums.shape[axis]
        total = sums.take(range(width, ends), axis) - sums.take(range(ends - width), axis)
    return total.astype(np.float32)


def unused_views(cutout: Cutout) -> tuple[str, ...]:
    """Return a warning if there are pictures of which nothing says what side they show."""
    if not cutout.views or cutout.views[0].side is not None:
        return ()
    count = len(cutout.views)
    text = (
        f"images: the preview engine uses the first of the {count} pictures only; it needs to know "
        "their sides: image_front, image_left, image_back, image_right"
    )
    return (text,)
