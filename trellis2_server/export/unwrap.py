"""Unwrap a mesh: give each face a position in a square texture.

Faces are grouped by their normals. Each group is projected along its mean normal; where faces would
overlap, it is split into several charts. The charts are flattened until their faces have nearly
their shapes in space, and packed at one common density.

Does not know: colours, files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.adjacency import twins
from trellis2_server.export.atlas import Atlas
from trellis2_server.export.charts import (
    build_charts,
    face_normals,
    find_rings,
    flatten,
    halve,
    total_length,
)
from trellis2_server.export.grouping import count_components, group_faces
from trellis2_server.export.packing import (
    FIRST_SHARE,
    check_chart_count,
    covered_share,
    pack,
)
from trellis2_server.mesh import Mesh
from trellis2_server.reports import stage_report

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.charts import Charts
    from trellis2_server.reports import Report

#: Share of the texture that the charts are expected to cover.
_EXPECTED_SHARE: Final = 0.75
#: Number of texel rows that all faces cover at most, in multiples of texels and faces. Those of
#: usual faces are fewer by a factor of ten.
_MAX_ROWS: Final = 8
#: Number of times that rings are halved.
_MAX_RING_CUTS: Final = 3
#: Number of times that the largest charts are halved for a better packing …
_MAX_CUTS: Final = 4
#: … unless this share of the texture is covered.
_SUFFICIENT_SHARE: Final = 0.62
#: A cut, which is a seam, has to increase the covered share by this much.
_MIN_GAIN: Final = 0.02
#: Charts below this share of the surface are not halved: they leave no large gaps.
_MIN_CUT_SHARE: Final = 0.01
#: Charts with fewer faces are not halved: a cut follows the edges of faces and would be too jagged.
_MIN_CUT_FACES: Final = 100
#: Textures from this size on are packed on a grid with cells of two texels, because packing takes
#: time in proportion to the number of cells.
_COARSE_PACKING_PX: Final = 4096


#: Extents of meshes that are unwrapped as they are. The squares of others may be too large or too
#: small for single precision.
_USUAL_EXTENTS: Final = (1e-3, 1e3)


def unwrap(
    mesh: Mesh,
    size_px: int,
    report: Report | None = None,
) -> Atlas:
    """Return an atlas in which no two faces share a texel, at one density for the whole surface.

    Args:
        mesh: checked, clean or not.
        size_px: edge of the texture, texels.
        report: called between steps with "unwrap", the step and the number of steps.

    Raises:
        ExportError: too many charts for this texture.
    """
    finished = stage_report(report, "unwrap", 4)
    finished(0)
    mesh = _in_usual_size(mesh)
    step = 2 if size_px >= _COARSE_PACKING_PX and size_px % 2 == 0 else 1
    twin = twins(mesh.faces, len(mesh.vertices))
    # Each connected part, and later each group of faces, becomes at least one chart. The groups and
    # charts of a million loose faces would take much memory.
    check_chart_count(count_components(twin), size_px // step)
    normals = face_normals(mesh)
    area = float(normals[:, 3].sum(dtype=np.float64))
    density = min(
        np.sqrt(_EXPECTED_SHARE * size_px * size_px / max(area, 1e-30)),
        # A needle has little area, but many rows.
        _MAX_ROWS * (size_px * size_px + len(mesh.faces)) / max(total_length(mesh), 1e-30),
    )
    group = group_faces(mesh.vertices, mesh.faces, twin, normals, density)
    check_chart_count(int(group.max()) + 1, size_px // step)
    finished(1)
    charts = build_charts(mesh, twin, normals, group, density, size_px)
    finished(2)
    for _ in range(_MAX_RING_CUTS):
        is_ring = find_rings(charts, twin)
        if not bool(is_ring.any()):
            break
        charts = halve(mesh, charts, twin, is_ring)
    charts, share = _cut_to_fit(mesh, charts, twin, size_px)
    flatten(mesh, charts, density, size_px)
    finished(3)
    uv = pack(charts, twin, size_px // step, share) * np.float32(step)
    finished(4)
    return Atlas(uv, charts.source, charts.uv_faces, charts.chart, size_px)


def _in_usual_size(mesh: Mesh) -> Mesh:
    """Return the mesh, scaled into a unit cube if it is very large or small."""
    low = mesh.vertices.min(axis=0).astype(np.float64)
    extent = float((mesh.vertices.max(axis=0) - low).max())
    least, largest = _USUAL_EXTENTS
    if extent == 0 or least <= extent <= largest:
        return mesh
    return Mesh(((mesh.vertices - low) / extent).astype(np.float32), mesh.faces)


def _cut_to_fit(
    mesh: Mesh, charts: Charts, twin: NDArray[np.int32], size_px: int
) -> tuple[Charts, float]:
    """Halve the largest charts if they then cover clearly more of the texture, like two squares.

    Returns:
        The charts, and the share of the texture that they cover in a trial.
    """
    areas = charts.areas()
    share = FIRST_SHARE
    if areas.max() >= _MIN_CUT_SHARE * areas.sum():
        share = covered_share(charts, float(areas.sum()), twin, size_px, FIRST_SHARE)
    trials = [(charts, share)]
    for _ in range(_MAX_CUTS):
        if share >= _SUFFICIENT_SHARE or areas.max() < _MIN_CUT_SHARE * areas.sum():
            break
        is_cut = (areas > 0.5 * areas.max()) & (np.bincount(charts.chart) >= _MIN_CUT_FACES)
        if not bool(is_cut.any()):
            break
        charts = halve(mesh, charts, twin, is_cut)
        areas = charts.areas()
        share = covered_share(charts, float(areas.sum()), twin, size_px, share)
        trials.append((charts, share))
    best = max(share for _, share in trials)
    return next(trial for trial in trials if trial[1] >= best - _MIN_GAIN)
