"""Measure levels of detail and baked maps on the preview engine's models of real pictures.

    python bench/export_pictures.py [--images FOLDER] [--only TABLE,…] [--json FILE]

Tables, with a row for each picture:

- levels: a GLB with levels of 100,000, 25,000 and 5,000 faces. `iou` is the overlap of a level's
  silhouette with that of the full surface (intersection over union, pixels), the mean over
  nine directions; `iou_least` the least of them. `other_iou` is that of meshoptimizer's decimation
  of the full surface to the same number of faces, without texture coordinates to keep;
  `other_seconds` its time, `seconds` that of the file with its textures.
- maps: a GLB of 20,000 faces with a normal map and occlusion: `normal_degrees` is the median angle
  between shaded normals and those of the full surface, `normal_gain` how many times larger it is
  without the map, `occlusion_rmse` the error against 1,024 rays from each point.

Pictures come from `--images FOLDER`, from `../shared/images` if it exists; without any, those of
known shapes are used (`preview_shapes`). Full surfaces have up to 500,000 faces, textures
2048 x 2048 pixels.

Needs what `bench/preview.py` and `bench/export.py` need.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.export_baseline import decimated_by_meshoptimizer  # noqa: E402
from bench.export_maps import judge_normals, judge_occlusion  # noqa: E402
from bench.preview import Maker, cutouts  # noqa: E402
from bench.record import Record, add_option  # noqa: E402
from trellis2_server import export  # noqa: E402
from trellis2_server.drawing.camera import axes_of, frame_of, project  # noqa: E402
from trellis2_server.drawing.glb import read_accessor, split_glb  # noqa: E402
from trellis2_server.export.pictures import rasterize  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from trellis2_server.mesh import Mesh, VoxelField

    #: Positions in glTF's frame, float32 [N, 3], and faces, int32 [F, 3].
    Triangles = tuple[NDArray[np.float32], NDArray[np.int32]]

#: Of the full surface, at most.
FULL_FACES: Final = 500_000
LODS: Final = (100_000, 25_000, 5_000)
MAP_FACES: Final = 20_000
TEXTURE_PX: Final = 2048
#: Directions of silhouettes, azimuth and elevation in degrees: the opposite ones show the same.
DIRECTIONS: Final = (*((azimuth, up) for up in (0, 35) for azimuth in (0, 45, 90, 135)), (0, 90))
SILHOUETTE_PX: Final = 1024


def silhouette_ious(full: Triangles, others: Sequence[Triangles]) -> NDArray[np.float64]:
    """Return the overlap of silhouettes with that of the full surface, float64 [O, directions]."""
    ious = np.empty((len(others), len(DIRECTIONS)))
    for column, direction in enumerate(DIRECTIONS):
        axes = axes_of(direction)
        frame = frame_of(full[0], axes)

        def covered(triangles: Triangles, axes: Any = axes, frame: Any = frame) -> NDArray[Any]:
            points = project(triangles[0].astype(np.float64), axes, frame, SILHOUETTE_PX)
            return rasterize(points, triangles[1], SILHOUETTE_PX, cull=False)[0] >= 0

        wanted = covered(full)
        for row, triangles in enumerate(others):
            found = covered(triangles)
            union = (wanted | found).sum()  # none of a plane from the side
            ious[row, column] = (wanted & found).sum() / union if union else 1.0
    return ious


def triangles_of(mesh: Mesh) -> Triangles:
    """Return a mesh of the model frame in glTF's."""
    x, y, z = mesh.vertices.T
    return np.stack([x, z, -y], axis=1), mesh.faces


def levels_of(content: bytes) -> list[Triangles]:
    """Return the levels of detail of a GLB, finest first."""
    document, data = split_glb(content)
    found: list[Triangles] = []
    for mesh in document["meshes"]:
        (primitive,) = mesh["primitives"]
        positions = read_accessor(document, data, primitive["attributes"]["POSITION"])
        corners = read_accessor(document, data, primitive["indices"])
        found.append((positions.astype(np.float32), corners.reshape(-1, 3).astype(np.int32)))
    return found


def levels(full: Mesh, field: VoxelField) -> dict[str, Any]:
    """Return the row of a picture in the table of levels, a list of values each."""
    start = time.perf_counter()
    mesh = export.prepare(full, decimation_target=LODS[0])
    content = export.textured_glb(
        mesh, field, original=full, texture_size=TEXTURE_PX, lods=LODS[1:]
    )
    seconds = time.perf_counter() - start
    ours = levels_of(content)
    decimated = [decimated_by_meshoptimizer(full, len(faces), 1) for _, faces in ours]
    others = [triangles_of(mesh) for mesh, _ in decimated]
    ious = silhouette_ious(triangles_of(full), [*ours, *others])
    return {
        "full_faces": len(full.faces),
        "faces": [len(faces) for _, faces in ours],
        "iou": ious[: len(ours)].mean(axis=1).tolist(),
        "iou_least": ious[: len(ours)].min(axis=1).tolist(),
        "seconds": seconds,
        "other_faces": [len(faces) for _, faces in others],
        "other_iou": ious[len(ours) :].mean(axis=1).tolist(),
        "other_iou_least": ious[len(ours) :].min(axis=1).tolist(),
        "other_seconds": sum(each for _, each in decimated),
    }


def maps(full: Mesh, field: VoxelField) -> dict[str, Any]:
    """Return the row of a picture in the table of maps."""
    mesh = export.prepare(full, decimation_target=MAP_FACES)
    content = export.textured_glb(
        mesh, field, original=full, texture_size=TEXTURE_PX, normal_map=True, occlusion=True
    )
    return {
        "full_faces": len(full.faces),
        "faces": len(mesh.faces),
        **judge_normals(content, full),
        **judge_occlusion(content),
    }


TABLES: Final[dict[str, Callable[[Mesh, VoxelField], dict[str, Any]]]] = {
    "levels": levels,
    "maps": maps,
}


def rows(folder: Path | None, asked: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of a table and a row, for each picture."""
    maker = Maker({"decimation_target": FULL_FACES, "texture_size": TEXTURE_PX})
    for name, cutout in cutouts(maker, folder).items():
        full, field = maker.surface(cutout)
        for table in asked:
            yield table, {"picture": name} | TABLES[table](full, field)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="pictures that are cut out")
    parser.add_argument("--only", default=",".join(TABLES), metavar="TABLE,…", help="(all)")
    add_option(parser)
    arguments = parser.parse_args()
    shared = ROOT.parent / "shared" / "images"
    folder = arguments.images or (shared if shared.is_dir() else None)
    record = Record(__file__, arguments)
    export.warm_up(everything=True)
    asked = [table for table in arguments.only.split(",") if table in TABLES]
    for table, row in rows(folder, asked):
        record.add(table, row)
        print(f"{table}: {row}", flush=True)


if __name__ == "__main__":
    main()
