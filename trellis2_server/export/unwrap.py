"""A flat place in a square texture for every face.

Faces are grouped by where their normals point, neighbouring groups are joined while their
normals stay within a cone, each group is projected along its mean normal, a face that
would land on another one starts a chart of its own, the charts are flattened until their faces
have nearly the shapes that they have in space, and packed by their outlines, row by row, at one
common density.

What this module does not know: colours, files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.errors import ExportError
from trellis2_server.export import subprocess_call
from trellis2_server.export.adjacency import following, twins
from trellis2_server.export.kernel import spread
from trellis2_server.export.kernels import unwrap as kernels

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trellis2_server.mesh import Mesh

    #: `group`, or what does the same.
    Grouping = Callable[
        [
            NDArray[np.float32],
            NDArray[np.int32],
            NDArray[np.int32],
            NDArray[np.float32],
            float,
        ],
        NDArray[np.int32],
    ]
    #: What `_project` returns.
    _Laid = tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]

_THIRD: Final = 3**-0.5
#: The faces and corners of a cube: no direction is more than 36 degrees from one.
WAYS: Final = np.array(
    [[s, 0, 0] for s in (1, -1)]
    + [[0, s, 0] for s in (1, -1)]
    + [[0, 0, s] for s in (1, -1)]
    + [[x, y, z] for x in (_THIRD, -_THIRD) for y in (_THIRD, -_THIRD) for z in (_THIRD, -_THIRD)],
    np.float32,
)
#: Mean squared sine between the normals of a chart and its axis: a cap of about 19
#: degrees, or a bend of 23.
SPREAD: Final = 0.05
#: … of a chart so small that its gutter costs more than its stretch.
SPREAD_SMALL: Final = 0.22
#: Texels under which a chart counts as small.
SMALL_TEXELS: Final = 150.0
#: How long xatlas may take; a million faces need about 400 s.
XATLAS_DEADLINE_S: Final = 600.0
#: How much of the atlas the first attempt at packing hopes to cover.
_HOPE: Final = 0.86
_ANGLES: Final = 24
#: Charts with more than this share of the surface are cut in two …
_CUT_SHARE: Final = 0.01
#: … while they fill less than this share of what their outline takes in the atlas …
_CUT_FILL: Final = 0.7
#: … and at most so often.
_CUTS: Final = 3
#: The degree of the polynomials that unbend a chart, and how often its faces are turned anew.
_DEGREE: Final = 6
_TURNS: Final = 3
#: Of how many faces of a chart the shape is asked for, roughly.
_ENOUGH: Final = 2000
#: How often each place then gives way to the shapes of the faces around it.
_STEPS: Final = 10
SMOOTHINGS: Final = 12
_PACKINGS: Final = 7
#: From so many charts on they are packed in haste, and in the end with care, so much larger.
_MANY: Final = 1500
_CARE: Final = (1.025, 1.015)
#: How much more of the atlas a chart may take with its rows than with its columns.
_BETTER: Final = 1.12
#: How often the largest charts are halved to fit better, unless so much of the atlas is covered …
_FITS: Final = 4
_ENOUGH_USE: Final = 0.62
#: … and how much more of it has to be covered for another cut.
_WORTH: Final = 0.02
#: Charts of less than this share of the surface leave no large gaps.
_CUT_LARGE: Final = 0.01
#: A cut zigzags around faces: across a few it would be all teeth.
_CUT_FACES: Final = 100
_TRIAL_PX: Final = 1024
_TRIAL_PACKINGS: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """Where each face lies in a square texture.

    Attributes:
        uv: float32 [M, 2], in texels: x to the right, y downward, inside [0, size_px].
        source: int32 [M], the mesh vertex that each row of `uv` belongs to.
        faces: int32 [F, 3], rows of `uv`, in the order and winding of the mesh's faces.
        chart: int32 [F], the chart of each face.
        size_px: edge of the square.
    """

    uv: NDArray[np.float32]
    source: NDArray[np.int32]
    faces: NDArray[np.int32]
    chart: NDArray[np.int32]
    size_px: int


def unwrap(
    mesh: Mesh,
    size_px: int,
    report: Callable[[str, int, int], None] | None = None,
    grouping: Grouping | None = None,
) -> Atlas:
    """An atlas in which no two faces share a texel, at one density for the whole surface.

    Args:
        mesh: any triangle mesh, clean or not.
        size_px: edge of the texture, in texels.
        report: called between steps with "unwrap", the step and their number.
        grouping: what groups the faces; `group`, or the same on a device.

    Raises:
        ExportError: the charts do not fit into a texture this small.
    """
    steps = 4
    say = report or _say_nothing
    vertices, faces = mesh.vertices, mesh.faces
    say("unwrap", 0, steps)
    twin = twins(faces, len(vertices))
    normals = np.empty((len(faces), 4), np.float32)
    spread(kernels.measure, len(faces), vertices, faces, normals)
    area = float(normals[:, 3].sum(dtype=np.float64))
    density = np.sqrt(0.75 * size_px * size_px / max(area, 1e-30))
    chart = (grouping or group)(vertices, faces, twin, normals, density)
    say("unwrap", 1, steps)

    order, first = _by_chart(chart)
    final = np.full(len(faces), -1, np.int32)
    axes = np.empty((len(faces), 3), np.float32)
    grid_px = 2 * size_px
    groups = len(first) - 1
    seen, is_plain = np.empty((groups, 3), np.float64), np.empty(groups, np.uint8)
    spread(
        kernels.look, groups, vertices, faces, normals, order, first, density, grid_px, seen,
        is_plain, grain=1,
    )  # fmt: skip
    count = kernels.lay_out(
        vertices, faces, twin, normals, order, first, chart, density, seen, is_plain, final, axes,
        np.empty(len(faces), np.int32), np.empty(len(faces), np.int32),
        np.full(len(faces), -1, np.int32), np.zeros((grid_px, grid_px), np.int32),
    )  # fmt: skip
    chart, axes = final, axes[:count]
    say("unwrap", 2, steps)

    laid = _project(vertices, faces, chart, axes)
    for _ in range(_CUTS):
        is_ring = _find_rings(laid, chart, twin)
        if not bool(is_ring.any()):
            break
        chart, axes = _halve(laid, chart, axes, twin, is_ring)
        laid = _project(vertices, faces, chart, axes)
    chart, axes, laid, share = _cut_to_fit(vertices, faces, twin, chart, axes, laid, size_px)
    flat, source, uv_faces, start = laid
    order, first = _by_chart(chart)
    spread(
        kernels.unbend, len(axes), vertices, faces, order, first, uv_faces, start, flat,
        _DEGREE, _TURNS, _ENOUGH, grain=1,
    )  # fmt: skip
    spread(
        kernels.relax, len(axes), vertices, faces, order, first, uv_faces, start, flat,
        _STEPS, density, grid_px, grain=1,
    )  # fmt: skip
    spread(kernels.straighten, len(axes), flat, start, _ANGLES, grain=1)
    say("unwrap", 3, steps)
    # Packing takes as many steps as the square has cells: a large one gets cells of two texels.
    step = 2 if size_px >= 4096 and size_px % 2 == 0 else 1  # noqa: PLR2004
    uv = pack(flat, start, uv_faces, chart, twin, size_px // step, share) * np.float32(step)
    say("unwrap", steps, steps)
    return Atlas(uv, source, uv_faces, chart, size_px)


def _say_nothing(_stage: str, _step: int, _steps: int) -> None:
    pass


def _by_chart(chart: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The faces sorted by chart, and where each chart's faces start."""
    # Of two bytes, they are sorted by counting.
    few = chart.astype(np.uint16) if int(chart.max()) < 1 << 16 else chart
    order = np.argsort(few, kind="stable").astype(np.int32)
    first = np.zeros(int(chart.max()) + 2, np.int32)
    np.cumsum(np.bincount(chart), out=first[1:])
    return order, first


def _project(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    chart: NDArray[np.int32],
    axes: NDArray[np.float32],
) -> _Laid:
    """Each chart seen along its axis.

    Returns:
        flat: float64 [M, 2], in the unit of the vertices.
        source: int32 [M], the vertex of each row of `flat`.
        uv_faces: int32 [F, 3], rows of `flat`.
        start: int32 [C + 1], the rows of `flat` that each chart owns.
    """
    order, first = _by_chart(chart)
    flat = np.empty((faces.size, 2), np.float64)
    source = np.empty(faces.size, np.int32)
    uv_faces = np.empty_like(faces)
    start = np.empty(len(axes) + 1, np.int32)
    rows = kernels.flatten(
        vertices, faces, order, first, axes, np.full(len(vertices), -1, np.int32),
        np.empty(len(vertices), np.int32), flat, source, uv_faces, start,
    )  # fmt: skip
    return flat[:rows].copy(), source[:rows].copy(), uv_faces, start


def _find_rings(
    laid: _Laid, chart: NDArray[np.int32], twin: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Which large charts enclose much that is not theirs, as rings do; bool [C]."""
    flat, _, uv_faces, start = laid
    own, box = _areas(laid, chart), _boxes(laid)[1]
    inner = flat - np.repeat(_boxes(laid)[0], np.diff(start), axis=0)
    edges, owner = _rims(uv_faces, chart, twin)
    # Coarse: a thousand cells or so in the charts that are asked about.
    scale = np.sqrt(1000.0 / max(_CUT_SHARE * float(own.sum()), 1e-30))
    cells = np.minimum(np.ceil(box * scale), 1 << 14).astype(np.int64) + 1
    first, left, right = _outlines(inner, edges, owner, scale, 0, cells)
    hull = _taken(first, left, right, cells).max(axis=0) / (scale * scale)
    return (own > _CUT_SHARE * own.sum()) & (own < _CUT_FILL * hull)


def _areas(laid: _Laid, chart: NDArray[np.int32]) -> NDArray[np.float64]:
    """The area of each chart, float64 [C]."""
    flat, _, uv_faces, start = laid
    a, b, c = (flat[uv_faces[:, k]] for k in range(3))
    area = np.abs(
        (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    )
    return (0.5 * np.bincount(chart, area, len(start) - 1)).astype(np.float64)


def _boxes(laid: _Laid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The low corner and the extent of each chart's box, float64 [C, 2]."""
    flat, _, _, start = laid
    low = np.minimum.reduceat(flat, start[:-1], axis=0)
    return low, np.maximum.reduceat(flat, start[:-1], axis=0) - low


def _halve(
    laid: _Laid,
    chart: NDArray[np.int32],
    axes: NDArray[np.float32],
    twin: NDArray[np.int32],
    is_cut: NDArray[np.bool_],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Some charts cut across in two: the chart of each face, and the axes of the charts.

    A half keeps the axis of the whole; what the cut leaves apart becomes charts.
    """
    flat, _, uv_faces, _ = laid
    low, box = _boxes(laid)
    way = np.argmax(box, axis=1)[chart]
    middle = (low + 0.5 * box)[chart, way]
    along = flat[uv_faces, way[:, None]].mean(axis=1)
    cut = (2 * chart + (is_cut[chart] & (along > middle))).astype(np.int32)
    halves = np.empty_like(cut)
    count = kernels.connect(twin, cut, halves, np.empty_like(cut))
    kept = np.empty((count, 3), np.float32)
    kept[halves] = axes[cut // 2]
    return halves, kept


def _cut_to_fit(  # noqa: PLR0913, PLR0917
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    twin: NDArray[np.int32],
    chart: NDArray[np.int32],
    axes: NDArray[np.float32],
    laid: _Laid,
    size_px: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32], _Laid, float]:
    """The largest charts halved where the square is used much better then, as two squares are.

    Returns:
        The chart of each face, the charts' axes, the charts as `_project` lays them out, and
        the share of the square that they cover in a trial.
    """
    own = _areas(laid, chart)
    found = [(chart, axes, laid, _HOPE)]
    if own.max() >= _CUT_LARGE * own.sum():
        found = [(chart, axes, laid, _trial(laid, chart, own, twin, size_px, _HOPE))]
    for _ in range(_FITS):
        chart, axes, laid, share = found[-1]
        if share >= _ENOUGH_USE or own.max() < _CUT_LARGE * own.sum():
            break
        is_cut = (own > 0.5 * own.max()) & (np.bincount(chart) >= _CUT_FACES)
        if not bool(is_cut.any()):
            break
        chart, axes = _halve(laid, chart, axes, twin, is_cut)
        laid = _project(vertices, faces, chart, axes)
        own = _areas(laid, chart)
        found.append((chart, axes, laid, _trial(laid, chart, own, twin, size_px, share)))
    best = max(share for *_, share in found)
    # A cut is a seam: it has to be worth it.
    return next(result for result in found if result[3] >= best - _WORTH)


def _trial(  # noqa: PLR0913, PLR0917
    laid: _Laid,
    chart: NDArray[np.int32],
    own: NDArray[np.float64],
    twin: NDArray[np.int32],
    size_px: int,
    hope: float,
) -> float:
    """The share of a small square that the charts cover, turned and packed."""
    flat, _, uv_faces, start = laid
    flat, size = flat.copy(), min(size_px, _TRIAL_PX)
    spread(kernels.straighten, len(start) - 1, flat, start, _ANGLES, grain=1)
    scale = _fit(flat, start, uv_faces, chart, twin, size, hope, _TRIAL_PACKINGS, is_trial=True)[0]
    return float(own.sum()) * scale * scale / (size * size)


def group(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    twin: NDArray[np.int32],
    normals: NDArray[np.float32],
    density: float,
) -> NDArray[np.int32]:
    """A group of connected faces for each face, whose normals lie in one cone.

    Args:
        vertices: float32 [N, 3].
        faces: int32 [F, 3].
        twin: int32 [3 F], see `adjacency.twins`.
        normals: float32 [F, 4], unit normals and areas.
        density: texels along a unit of length.

    Returns:
        int32 [F], from 0 without gaps.
    """
    label = np.empty(len(faces), np.int32)
    spread(kernels.aim, len(faces), normals, WAYS, label)
    other = np.empty_like(label)
    for _ in range(SMOOTHINGS):
        spread(kernels.smooth, len(faces), normals, WAYS, twin, label, other)
        label, other = other, label
    groups = np.empty(len(faces), np.int32)
    count = kernels.connect(twin, label, groups, np.empty(len(faces), np.int32))
    small = SMALL_TEXELS / (density * density)
    for _ in range(8):
        sums = np.zeros((count, 10))
        kernels.sum_normals(normals, groups, sums)
        low, high, length = _borders(vertices, faces, twin, groups, count)
        if low.size == 0:
            break
        perimeter = np.bincount(low, length, count) + np.bincount(high, length, count)
        share = length / np.minimum(perimeter[low], perimeter[high])
        best = np.argsort(-share, kind="stable")
        parent = np.arange(count, dtype=np.int32)
        merged = kernels.merge(
            low[best].astype(np.int32), high[best].astype(np.int32), sums, parent,
            SPREAD, SPREAD_SMALL, small,
        )  # fmt: skip
        if merged == 0:
            break
        names, parent = np.unique(parent, return_inverse=True)
        groups = parent.astype(np.int32)[groups]
        count = len(names)
    return groups


def _borders(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    twin: NDArray[np.int32],
    group: NDArray[np.int32],
    count: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The pairs of groups with a common border, and how long it is."""
    half = np.empty(twin.size, np.int32)
    half = half[: kernels.pick_borders(twin, group, half)]
    if half.size == 0:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, np.zeros(0)
    a, b = group[half // 3].astype(np.int64), group[twin[half] // 3].astype(np.int64)
    corner = faces.reshape(-1)
    ends = following(half)
    length = np.linalg.norm(vertices[corner[half]] - vertices[corner[ends]], axis=1)
    keys, where = np.unique(np.minimum(a, b) * count + np.maximum(a, b), return_inverse=True)
    return (
        keys // count,
        keys % count,
        np.bincount(where, length.astype(np.float64)).astype(np.float64) + 1e-12,
    )


def pack(  # noqa: PLR0913, PLR0917
    flat: NDArray[np.float64],
    start: NDArray[np.int32],
    uv_faces: NDArray[np.int32],
    chart: NDArray[np.int32],
    twin: NDArray[np.int32],
    size_px: int,
    hope: float,
) -> NDArray[np.float32]:
    """The charts moved, turned by quarters and scaled alike into the square.

    Args:
        flat: float64 [M, 2], the charts in one unit of length, each with its corner at 0.
        start: int32 [C + 1], the rows of `flat` that each chart owns.
        uv_faces: int32 [F, 3], rows of `flat`.
        chart: int32 [F].
        twin: int32 [3 F], of the mesh.
        size_px: edge of the square.
        hope: the share of the square that the first attempt tries to cover.

    Returns:
        float32 [M, 2], in texels.

    Raises:
        ExportError: even tiny charts do not fit: there are too many for this texture.
    """
    scale, place, box = _fit(flat, start, uv_faces, chart, twin, size_px, hope)
    if scale == 0.0:
        raise ExportError(
            f"{len(box)} charts do not fit into a texture of {size_px} pixels: ask for fewer faces "
            "or a larger texture."
        )
    uv = np.empty((len(flat), 2), np.float32)
    kernels.move(flat, start, box, place, scale, _gap(size_px), uv)
    return np.clip(uv, 0.0, np.float32(size_px))


def _gap(size_px: int) -> int:
    """Cells of air around each chart."""
    return 1 if size_px < 2048 else 2  # noqa: PLR2004


def _fit(  # noqa: PLR0913, PLR0917 - what `pack` takes
    flat: NDArray[np.float64],
    start: NDArray[np.int32],
    uv_faces: NDArray[np.int32],
    chart: NDArray[np.int32],
    twin: NDArray[np.int32],
    size_px: int,
    hope: float,
    packings: int = _PACKINGS,
    *,
    is_trial: bool = False,
) -> tuple[float, NDArray[np.int32], NDArray[np.float64]]:
    """The largest scale found at which the charts fit, 0 where none.

    Also where each chart goes and how it is turned, int32 [C, 3], and its box, float64 [C, 2].
    Many charts are packed in haste, and with care only in the end, unless that is a trial.
    """
    count = len(start) - 1
    gap = _gap(size_px)
    edges, owner = _rims(uv_faces, chart, twin)
    box = np.zeros((count, 2))
    kernels.measure_boxes(flat, start, box)
    order = np.argsort(-box.prod(axis=1), kind="stable").astype(np.int32)
    a, b, c = (flat[uv_faces[:, k]] for k in range(3))
    area = 0.5 * float(
        np.abs(
            (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
        ).sum()
    )
    scale = np.sqrt(hope) * size_px / np.sqrt(max(area, 1e-30))
    scale = min(scale, (size_px - 2 * gap - 2) / max(float(box.max()), 1e-30))

    def packed(scale: float, *, is_hasty: bool) -> tuple[int, NDArray[np.int32]]:
        place = np.empty((count, 3), np.int32)
        height = _try_packing(
            box, order, edges, owner, flat, scale, gap, size_px, place, is_hasty=is_hasty
        )
        return height, place

    found = None
    if count >= _MANY:
        found = _largest(partial(packed, is_hasty=True), scale, size_px, packings)
        if found is not None and not is_trial:
            for wished in (found[0] * more for more in _CARE):
                height, place = packed(wished, is_hasty=False)
                if 0 <= height <= size_px:
                    return wished, place, box
    if found is None:
        found = _largest(partial(packed, is_hasty=False), scale, size_px, packings)
    return (0.0, np.zeros((count, 3), np.int32), box) if found is None else (*found, box)


def _largest(
    packed: Callable[[float], tuple[int, NDArray[np.int32]]],
    scale: float,
    size_px: int,
    packings: int,
) -> tuple[float, NDArray[np.int32]] | None:
    """The largest scale found at which `packed` takes no more rows than there are, and its places.

    Args:
        packed: the rows, or -1, and where each chart goes, at a scale.
        scale: the first that is tried.
        size_px: rows.
        packings: how many are tried; more where nothing fits.
    """
    best: tuple[float, NDArray[np.int32]] | None = None
    too_big = np.inf
    for attempt in range(40):
        height, place = packed(scale)
        if 0 <= height <= size_px:
            if best is None or scale > best[0]:
                best = scale, place
            if attempt >= packings or height > 0.985 * size_px:
                break
            wished = scale * min(1.08, np.sqrt(size_px / max(height, 1)))
            scale = min(wished, 0.5 * (scale + too_big))
            if scale < best[0] * 1.004:
                break
        else:
            too_big = min(too_big, scale)
            if best is not None:
                if attempt >= packings:
                    break
                scale = 0.5 * (best[0] + too_big)
                if scale < best[0] * 1.004:
                    break
            else:
                scale *= 0.93 if attempt < packings else 0.7
                # Gutters do not shrink: the scale comes down by this at least.
                scale = min(scale, too_big * np.sqrt(size_px / max(height, size_px)))
    return best


def _try_packing(  # noqa: PLR0913, PLR0917
    box: NDArray[np.float64],
    order: NDArray[np.int32],
    edges: NDArray[np.int32],
    owner: NDArray[np.int32],
    flat: NDArray[np.float64],
    scale: float,
    gap: int,
    size_px: int,
    place: NDArray[np.int32],
    *,
    is_hasty: bool,
) -> int:
    """The rows that packing at this scale takes, at least where too many; -1: it does not fit."""
    cells = np.ceil(box * scale).astype(np.int64) + 1 + 2 * gap
    if int(cells.max()) > size_px or int(cells.prod(axis=1).min()) <= 0:
        return -1
    first, low, high = _outlines(flat, edges, owner, scale, gap, cells)
    rows, columns = _taken(first, low, high, cells)
    least = -(-int(np.minimum(rows, columns).sum()) // size_px)
    if least > size_px:
        return least
    last = np.full((size_px, size_px), -1, np.int16)
    # An arch leaves its hole to others only where it lies on its side.
    ways = np.where(columns * _BETTER > rows, np.where(rows * _BETTER > columns, 2, 0), 1)
    return int(
        kernels.place(
            order, cells, ways, first, low, high, last, np.zeros(2048, np.int32), is_hasty, place
        )
    )


def _rims(
    uv_faces: NDArray[np.int32], chart: NDArray[np.int32], twin: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The edges between charts, int32 [E, 2], and the chart of each."""
    rim = np.empty(uv_faces.size, np.int32)
    rim = rim[: kernels.pick_rims(twin, chart, rim)]
    edges = np.empty((rim.size, 2), np.int32)
    corner = uv_faces.reshape(-1)
    edges[:, 0] = corner[rim]
    edges[:, 1] = corner[following(rim)]
    return edges, chart[rim // 3]


def _outlines(  # noqa: PLR0913, PLR0917
    flat: NDArray[np.float64],
    edges: NDArray[np.int32],
    owner: NDArray[np.int32],
    scale: float,
    gap: int,
    cells: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Where each row of each chart begins and ends, then each column: int32 `low`, `high`.

    Args:
        flat: float64 [M, 2], each chart with its corner at 0.
        edges: int32 [E, 2], the charts' rims.
        owner: int32 [E].
        scale: cells per unit.
        gap: cells of air on all sides.
        cells: int64 [C, 2], columns and rows of each chart.

    Returns:
        first: int64 [C + 1], where a chart's rows start in `low` and `high`.
        low: int32 [first[-1]].
        high: int32 [first[-1]], below `low` where a row is empty.
    """
    first = np.zeros(len(cells) + 1, np.int64)
    np.cumsum(cells[:, 0] + cells[:, 1], out=first[1:])
    low = np.full(int(first[-1]), 1 << 30, np.int32)
    high = np.full(int(first[-1]), -1, np.int32)
    kernels.outline(flat, edges, owner, scale, gap, cells, first, low, high)
    return first, low, high


def _taken(
    first: NDArray[np.int64],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    cells: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The cells between the ends of a chart's rows, then of its columns: int64 [2, C]."""
    total = np.zeros(len(low) + 1, np.int64)
    np.cumsum(np.maximum(high.astype(np.int64) - low + 1, 0), out=total[1:])
    turn = first[:-1] + cells[:, 1]
    return np.stack([total[turn] - total[first[:-1]], total[first[1:]] - total[turn]])


def unwrap_with_xatlas(
    mesh: Mesh, size_px: int, report: Callable[[str, int, int], None] | None = None
) -> Atlas:
    """An atlas with xatlas' charts, made in another process within `XATLAS_DEADLINE_S`.

    Args:
        mesh: any triangle mesh; a million faces take minutes.
        size_px: edge of the texture, in texels.
        report: called with "unwrap", before and after.

    Raises:
        ExportError: xatlas failed or ran past its deadline.
        MissingPackageError: xatlas is not installed.
    """
    say = report or _say_nothing
    say("unwrap", 0, 1)
    result = subprocess_call.call(
        "xatlas",
        {
            "vertices": mesh.vertices,
            "faces": mesh.faces,
            "size_px": np.array(size_px),
            "gap_px": np.array(4 if size_px >= 2048 else 2),  # noqa: PLR2004
        },
        XATLAS_DEADLINE_S,
    )
    if int(result["pages"]) != 1:
        raise ExportError(f"xatlas needs more than one texture of {size_px} pixels.")
    faces = result["faces"].astype(np.int32)
    # xatlas rounds its page up; the longer side is made the texture's.
    longest = max(int(result["width"]), int(result["height"]))
    scale = (np.array([result["width"], result["height"]]) * (size_px / longest)).astype(np.float32)
    chart = np.empty(len(faces), np.int32)
    everywhere = np.zeros(len(faces), np.int32)
    kernels.connect(twins(faces, len(result["uv"])), everywhere, chart, np.empty_like(chart))
    say("unwrap", 1, 1)
    return Atlas(result["uv"] * scale, result["source"].astype(np.int32), faces, chart, size_px)
