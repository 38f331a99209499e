"""Judge GLBs of one object, whoever exported them, as `bench/export.py` judges this exporter's.

    python bench/export_files.py --shape bolt this-server.glb to_glb.glb --json FILE

The object is a dual grid of `export_shapes`, as are those of the files that `tests/gpu/run.py
--parts upstream_export --files FOLDER` keeps. Beside textures and charts, surfaces are compared:
`error` are the distances of the object from the file's surface, `added` those of the file's from
the object, in voxels; `open_edges` have one face, `crowded_edges` more than two.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.export_quality import errors, judge, read_glb, validate
from bench.export_shapes import DUAL_GRIDS, dual_grid, voxels
from bench.record import Record, add_option
from trellis2_server.mesh import Mesh


def welded(content: bytes) -> Mesh:
    """Return a file's surface in the model frame, with one vertex a place and no empty faces."""
    file = read_glb(content)
    places, number = np.unique(file["positions"].astype(np.float32), axis=0, return_inverse=True)
    faces = number.reshape(-1)[file["faces"]].astype(np.int32)
    is_whole = (faces != np.roll(faces, 1, axis=1)).all(1)
    return Mesh(places, faces[is_whole])


def edges(mesh: Mesh) -> dict[str, int]:
    """Count the edges that have not two faces."""
    pairs = np.sort(np.concatenate([mesh.faces[:, [k, (k + 1) % 3]] for k in range(3)]), axis=1)
    _, uses = np.unique(pairs, axis=0, return_counts=True)
    return {"open_edges": int((uses == 1).sum()), "crowded_edges": int((uses > 2).sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="GLBs")
    parser.add_argument("--shape", choices=DUAL_GRIDS, required=True)
    parser.add_argument("--resolution", type=int, default=512, help="of the voxels")
    add_option(parser)
    args = parser.parse_args()
    record = Record(__file__, args)
    original = dual_grid(args.shape, args.resolution, None)
    field = voxels(original, args.resolution, alpha=False)
    for path in args.files:
        content = path.read_bytes()
        mesh = welded(content)
        row = {
            "file": path.name,
            "shape": args.shape,
            "faces": len(mesh.faces),
            "bytes": len(content),
            **judge(content, original, field),
            **errors(original, mesh, args.resolution),
            **edges(mesh),
            "validator": validate(content),
        }
        record.add("files", row)
        for key, value in row.items():
            print(f"{key:22} {value:.4g}" if isinstance(value, float) else f"{key:22} {value}")


if __name__ == "__main__":
    main()
