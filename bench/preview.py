"""Measure the preview engine on real pictures and on pictures of known shapes.

    python bench/preview.py [--images FOLDER] [--against CHECKOUT] [--only TABLE,…] [--json FILE]

Tables:

- shapes: a dozen known shapes, textured and lit from three sides (`preview_shapes`): the front of
  the untextured model against the truth. `spearman` is the rank correlation of the depth inside
  the mask, `angle` the median angle between the normals in degrees, `depth_per_width` the extents
  of the model, beside those of the shape; each over the lights.
- discs: flat discs with a painting. `relief` is the largest difference in height from the same disc
  in one colour, within 0.9 of the radius; `height_range` that between the heights themselves. Both
  are shares of the width.
- pictures: front view of the textured model against the cut-out (PSNR in dB, IoU of the outline);
  `back` is the contrast (standard deviation of the lightness) of the back's middle over that of
  the front's; seconds to the untextured and the textured GLB, median of three; whether the mesh is
  closed and outward, and equal bytes twice.

Pictures come from `--images FOLDER`, from `../shared/images` if it exists; without any, those of
the known shapes are used. 50,000 faces and textures of 1024 x 1024 pixels, in this process, without
HTTP. With `--against`, the other checkout makes the same models, and its figures stand beside ours
as `against_…`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

HERE: Final = Path(__file__).resolve().parents[1]
ROOT: Final = Path(os.environ.get("PREVIEW_CHECKOUT") or HERE)
sys.path[:0] = [str(ROOT), str(HERE)]  # the package is the checkout's

import numpy as np  # noqa: E402 - after the path is set
import trimesh  # noqa: E402
from PIL import Image  # noqa: E402

from bench.preview_discs import DISCS, disc  # noqa: E402
from bench.preview_maps import angles, back_contrast, front_maps, spearman  # noqa: E402
from bench.preview_shapes import LIGHTS, SHAPES, picture, truth  # noqa: E402
from bench.record import Record, add_option  # noqa: E402
from bench.render import front_view_match  # noqa: E402
from trellis2_server import pipeline  # noqa: E402
from trellis2_server.engines.preview import PreviewEngine  # noqa: E402
from trellis2_server.inputs.images import Cutout, Cutter  # noqa: E402
from trellis2_server.parameters import read_options  # noqa: E402
from trellis2_server.settings import ModelSettings, Settings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from trellis2_server.mesh import Mesh, VoxelField

FIELDS: Final = {"decimation_target": 50_000, "texture_size": 1024}
_ROUNDS: Final = 3
_IMAGE_KINDS: Final = {".webp", ".png"}


def ignore(stage: str, step: int, steps: int) -> None:
    """Ignore a report."""


class Maker:
    """Makes models of pictures as the server does, in this process.

    Args:
        fields: of the requests.
    """

    def __init__(self, fields: Mapping[str, Any] = FIELDS) -> None:
        self._settings = Settings(model=ModelSettings(engine="preview", background="grabcut"))
        self._options = read_options(dict(fields), self._settings)
        self._engine = PreviewEngine()
        pipeline.load(self._engine, ignore)
        self._cutter = Cutter(background="grabcut")

    def cut_out(self, rgba: np.ndarray[Any, Any]) -> Cutout:
        """Return what the engine sees of a picture."""
        file = io.BytesIO()
        Image.fromarray(rgba).save(file, "PNG")
        return self._cutter.cut_out(file.getvalue())

    def surface(self, cutout: Cutout) -> tuple[Mesh, VoxelField]:
        """Return the surface before decimation, and its colours."""
        shape = self._engine.shape(cutout, self._options, ignore)
        return shape.mesh, self._engine.texture(shape, cutout, self._options, ignore)

    def untextured(self, cutout: Cutout) -> bytes:
        shape = self._engine.shape(cutout, self._options, ignore)
        return pipeline.export_shape(self._engine, shape, self._options, ignore)[1]

    def both(self, cutout: Cutout) -> tuple[bytes, bytes, float, float]:
        """Return the untextured and the textured GLB, and seconds from the cut-out to each."""
        begin = time.perf_counter()
        models = pipeline.make_model(
            self._engine, cutout, self._options, self._settings.export, ignore
        )
        shape = next(models)
        middle = time.perf_counter()
        return shape, next(models), middle - begin, time.perf_counter() - begin


# ---- tables ------------------------------------------------------------------------------------


def shapes(maker: Maker) -> Iterator[dict[str, Any]]:
    """Yield a row for each known shape."""
    for name in SHAPES:
        known = truth(name)
        found: dict[str, list[float]] = {"spearman": [], "angle": [], "depth_per_width": []}
        for light in LIGHTS:
            glb = maker.untextured(maker.cut_out(picture(name, light)))
            maps = front_maps(glb, known.mask)
            both = known.mask & maps.covered
            found["spearman"].append(spearman(maps.depth[both], known.depth[both]))
            found["angle"].append(float(np.median(angles(maps.normals, known.normals)[both])))
            found["depth_per_width"].append(maps.depth_per_width)
        row: dict[str, Any] = {"shape": name, "truth": known.depth_per_width}
        for key, values in found.items():
            row |= {key: statistics.fmean(values), f"{key}_each": values}
        yield row


def discs(maker: Maker) -> Iterator[dict[str, Any]]:
    """Yield a row for each painted disc."""
    mask = disc("plain")[..., 3] > 127
    rows, columns = np.nonzero(mask)
    y, x = np.mgrid[: len(mask), : len(mask)]
    away = np.hypot(y - rows.mean(), x - columns.mean())
    width = float(np.ptp(columns)) + 1
    inner = away < 0.9 * width / 2
    plain = None
    for name in DISCS:
        maps = front_maps(maker.untextured(maker.cut_out(disc(name))), mask)
        plain = maps.depth if plain is None else plain
        relief = (maps.depth - plain)[inner]
        yield {
            "disc": name,
            "relief": float(np.ptp(relief)) / width,
            "height_range": float(np.ptp(maps.depth[inner])) / width,
        }


def pictures(maker: Maker, given: dict[str, Cutout]) -> Iterator[dict[str, Any]]:
    """Yield a row for each picture."""
    for name, cutout in given.items():
        runs = [maker.both(cutout) for _ in range(_ROUNDS)]
        clay, textured = runs[0][:2]
        psnr_db, iou = front_view_match(textured, cutout.rgba)
        mesh = trimesh.load(io.BytesIO(clay), file_type="glb", force="mesh")
        yield {
            "picture": name,
            "psnr_db": psnr_db,
            "iou": iou,
            "back": back_contrast(textured),
            "untextured_s": statistics.median(run[2] for run in runs),
            "textured_s": statistics.median(run[3] for run in runs),
            "faces": len(mesh.faces),
            "is_closed": bool(mesh.is_watertight and mesh.is_winding_consistent),
            "is_outward": bool(mesh.volume > 0),
            "is_deterministic": len({run[:2] for run in runs}) == 1,
        }


def cutouts(maker: Maker, folder: Path | None) -> dict[str, Cutout]:
    """Return the pictures with a transparent ground in a folder, or those of known shapes."""
    files = [] if folder is None else sorted(folder.iterdir())
    files = [file for file in files if file.suffix.lower() in _IMAGE_KINDS]
    if not files:
        return {name: maker.cut_out(picture(name, "left")) for name in SHAPES}
    found: dict[str, Cutout] = {}
    for file in files:
        with Image.open(file) as image:
            found[file.stem] = maker.cut_out(np.asarray(image.convert("RGBA")))
    return found


def measured(tables: list[str], folder: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of a table and a row, of the package that this process has."""
    maker = Maker()
    sources: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "shapes": lambda: shapes(maker),
        "discs": lambda: discs(maker),
        "pictures": lambda: pictures(maker, cutouts(maker, folder)),
    }
    for table in tables:
        for row in sources[table]():
            yield table, row


# ---- command line ------------------------------------------------------------------------------


def of_checkout(
    checkout: Path, tables: list[str], folder: Path | None
) -> list[tuple[str, dict[str, Any]]]:
    """Measure the package of a checkout in a new process."""
    command = [sys.executable, __file__, "--only", ",".join(tables), "--rows"]
    done = subprocess.run(
        command + ([] if folder is None else ["--images", str(folder)]),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PREVIEW_CHECKOUT": str(checkout)},
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def beside(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the figures of the other checkout's row."""
    return row | {
        f"against_{key}": value
        for key, value in other.items()
        if isinstance(value, int | float) and key != "truth"
    }


def summary(table: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of a table's figures; of claims, whether all hold."""
    means: dict[str, Any] = {}
    for key, value in rows[0].items():
        if isinstance(value, bool):
            means[key] = all(row[key] for row in rows)
        elif isinstance(value, int | float):
            means[key] = statistics.fmean(row[key] for row in rows)
    return {"of": table, "rows": len(rows), **means}


def main() -> None:
    """Run the command line."""
    tables = ["shapes", "discs", "pictures"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="pictures that are cut out")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout")
    parser.add_argument("--only", default=",".join(tables), metavar="TABLE,…", help="(all)")
    parser.add_argument("--rows", action="store_true", help=argparse.SUPPRESS)
    add_option(parser)
    arguments = parser.parse_args()
    asked = [table for table in arguments.only.split(",") if table in tables]
    shared = HERE.parent / "shared" / "images"
    folder = arguments.images or (shared if shared.is_dir() else None)
    if arguments.rows:
        for table, row in measured(asked, folder):
            print(json.dumps([table, row]), flush=True)
        return
    others = of_checkout(arguments.against.resolve(), asked, folder) if arguments.against else []
    record = Record(__file__, arguments)
    found: dict[str, list[dict[str, Any]]] = {}
    for number, (table, row) in enumerate(measured(asked, folder)):
        full = beside(row, others[number][1]) if others else row
        found.setdefault(table, []).append(full)
        record.add(table, full)
        _print(table, full)
    for table, rows in found.items():
        means = summary(table, rows)
        record.add("summary", means)
        _print("summary", means)


def _print(table: str, row: dict[str, Any]) -> None:
    words = (
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if not isinstance(value, list)
    )
    print(f"{table}: {'  '.join(words)}", flush=True)


if __name__ == "__main__":
    main()
