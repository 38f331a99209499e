"""Unwrap a mesh with xatlas, in another process.

Does not know: how xatlas works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.errors import ExportError
from trellis2_server.export import subprocess_call
from trellis2_server.export.adjacency import twins
from trellis2_server.export.atlas import Atlas
from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import grouping as kernels
from trellis2_server.reports import stage_report

if TYPE_CHECKING:
    from trellis2_server.mesh import Mesh
    from trellis2_server.reports import Report

#: Time after which xatlas is stopped, seconds; a million faces take about 400.
XATLAS_DEADLINE_S: Final = 600.0


def unwrap_with_xatlas(mesh: Mesh, size_px: int, report: Report | None = None) -> Atlas:
    """Return an atlas with the charts of xatlas.

    Args:
        mesh: checked; a million faces take minutes.
        size_px: edge of the texture, texels.
        report: called with "unwrap", before and after.

    Raises:
        ExportError: xatlas failed or exceeded `XATLAS_DEADLINE_S`.
        MissingPackageError: xatlas is not installed.
    """
    finished = stage_report(report, "unwrap", 1)
    finished(0)
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
    # The size of xatlas' page is not exactly `size_px`: its longer side becomes the texture's edge.
    longest = max(int(result["width"]), int(result["height"]))
    scale = (np.array([result["width"], result["height"]]) * (size_px / longest)).astype(np.float32)
    chart = np.empty(len(faces), np.int32)
    label = np.zeros(len(faces), np.int32)
    call(
        kernels.connected_components,
        twins(faces, len(result["uv"])),
        label,
        chart,
        np.empty_like(chart),
    )
    finished(1)
    return Atlas(result["uv"] * scale, result["source"].astype(np.int32), faces, chart, size_px)
