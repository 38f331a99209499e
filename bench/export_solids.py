"""Measure solids for printing, beside shells that are remeshed and decimated but no solids.

    python bench/export_solids.py [--faces 50000] [--resolution 256] [--json FILE]

Table `solids`, a row for each shape of `export_shapes`: seconds from the surface to the solid, its
faces, and what keeps it from being one (`faults`, none if empty). `open_edges`, `touching` (faces
that meet others beside their common edges and corners) and `is_volume` (by trimesh: closed, wound
consistently, outward) are judged afterwards. `other_…` are the same of `remesh` without `solid`.

Needs what `bench/export.py` needs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trimesh

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.export_shapes import DUAL_GRIDS, dual_grid, surface
from bench.record import Record, add_option
from trellis2_server import export
from trellis2_server.export import solids
from trellis2_server.export.adjacency import BOUNDARY, twins

if TYPE_CHECKING:
    from trellis2_server.mesh import Mesh

SHAPES: Final = ("links", "noise", *DUAL_GRIDS)


def judge(mesh: Mesh) -> dict[str, Any]:
    """Return what can be told of a surface without knowing how it was made."""
    whole = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    return {
        "faces": len(mesh.faces),
        "faults": solids.find_faults(mesh),
        "open_edges": int((twins(mesh.faces, len(mesh.vertices)) == BOUNDARY).sum()),
        "touching": len(solids.touching_faces(mesh)),
        "is_volume": bool(whole.is_volume),
    }


def measure(shape: str, faces: int, resolution: int) -> dict[str, Any]:
    """Return the row of a shape."""
    if shape in DUAL_GRIDS:
        original = dual_grid(shape, resolution, None)
    else:
        original = surface(shape, resolution)
    row: dict[str, Any] = {"shape": shape, "original_faces": len(original.faces)}
    for prefix, is_solid in (("", True), ("other_", False)):
        start = time.perf_counter()
        mesh = export.prepare(
            original, decimation_target=faces, remesh_resolution=resolution, solid=is_solid
        )
        row[f"{prefix}seconds"] = time.perf_counter() - start
        row |= {f"{prefix}{key}": value for key, value in judge(mesh).items()}
    return row


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faces", type=int, default=50_000, help="at most (%(default)s)")
    parser.add_argument("--resolution", type=int, default=256, help="cells (%(default)s)")
    add_option(parser)
    arguments = parser.parse_args()
    record = Record(__file__, arguments)
    export.warm_up(everything=True)
    for shape in SHAPES:
        row = measure(shape, arguments.faces, arguments.resolution)
        record.add("solids", row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
