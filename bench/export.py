"""Measure the exporter's time and quality, and compare them with upstream's, in one run.

    python bench/export.py --faces 200000 --texture 2048

Upstream's side is its CPU work: xatlas on clusters of 90 degree cones (the clustering itself is not
counted), OpenCV's inpainting of four maps, Pillow's WebP at its defaults, trimesh. `ratio` compares
that with our unwrap, fill, encode and pack. `seconds` is the time from the decimated mesh, the
original mesh and the voxels to bytes, projection included. `decimate_seconds` is cleaning and
decimation; `decimate_ratio` compares it with meshoptimizer's decimation, which does not clean and
does not move vertices.

    python bench/export.py --shape all

prints the quality of all shapes, ours and upstream's, as one table.

    python bench/export.py --shape crowded --only-prepare --repeat 5

measures cleaning and decimation only.

    python bench/export.py --shape noise --faces 20000 --maps

also bakes a normal map and ambient occlusion: `maps_ratio` is the time with both over that without,
measured by turns, `maps_cpu_ratio` that of processor time. `normal_degrees` is the median angle
between shaded normals and the full surface, `normal_gain` how many times more it is without the
map, `occlusion_rmse` the error against 1,024 rays. `lods` are the levels of 25,000 and 5,000 faces.

The shapes after `sheet` are dual grids like TRELLIS.2's at `--resolution`, see `export_shapes`;
`--mesh FILE` makes one of any mesh file.

Needs the exporter's packages, trimesh and scikit-image; the baseline also needs xatlas,
meshoptimizer and opencv-python-headless.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.export_baseline import baseline, decimated_by_meshoptimizer
from bench.export_maps import judge_normals, judge_occlusion
from bench.export_quality import errors, is_watertight, judge, validate
from bench.export_shapes import DUAL_GRIDS, SHAPES, dual_grid, surface, voxels
from bench.record import Record, add_option
from trellis2_server import export
from trellis2_server.inputs.meshes import Glb

if TYPE_CHECKING:
    from typing_extensions import Self

    from trellis2_server.mesh import Mesh, VoxelField


def original_of(args: argparse.Namespace) -> Mesh:
    """Return the surface that the command line selects."""
    if args.mesh or args.shape in DUAL_GRIDS:
        return dual_grid(args.shape, args.resolution, args.mesh)
    wanted = args.original_faces or int(3.5 * args.faces)
    probe = len(surface(args.shape, 64).faces)
    return surface(args.shape, int(64 * np.sqrt(wanted / probe)) + 1)


class Stages:
    """Time of each stage until the next one reports, seconds; of "bake", that of each step.

    A stage may report the same step several times. What follows the last step of unwrapping is
    "rasterize": the texels of each face, and the rest of what is indexed beside unwrapping.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()
        self._key = "unwrap"

    def __call__(self, stage: str, step: int, steps: int) -> None:
        now = time.perf_counter()
        self.seconds[self._key] = self.seconds.get(self._key, 0.0) + now - self._last
        self._last = now
        if stage == "bake":
            self._key = f"bake.{step + 1}"
        else:
            self._key = "rasterize" if stage == "unwrap" and step == steps else stage


class StageTimes:
    """Time of each stage from its first to its last report, seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started: dict[str, float] = {}

    def __call__(self, stage: str, _step: int, _steps: int) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self._started.setdefault(stage, now)


class Pulse:
    """The longest time for which another thread could not run, because of the interpreter lock."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat)

    def _beat(self) -> None:
        last = time.perf_counter()
        while not self._end.wait(0.002):
            now = time.perf_counter()
            self.longest = max(self.longest, now - last - 0.002)
            last = now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def peak_mb() -> float:
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def prepared(original: Mesh, args: argparse.Namespace) -> tuple[dict[str, object], Mesh]:
    """Clean and decimate `args.repeat` times; return the fastest measurement and the mesh."""
    result: dict[str, object] = {}
    mesh, best, stall = original, float("inf"), 0.0
    for _ in range(args.repeat):
        start, times = time.perf_counter(), StageTimes()
        with Pulse() as pulse:
            mesh = export.prepare(
                original,
                decimation_target=args.faces,
                remesh_resolution=args.resolution if args.remesh else None,
                report=times,
            )
        seconds = time.perf_counter() - start
        stall = max(stall, pulse.longest)
        if seconds < best:
            best = seconds
            result = {"decimate_seconds": seconds, "prepare_stages": times.seconds}
    result |= {
        "target_share": len(mesh.faces) / args.faces,
        "is_watertight": is_watertight(mesh),
        "stall_prepare_ms": 1000 * stall,
        "original_faces": len(original.faces),
        "faces": len(mesh.faces),
    }
    return result, mesh


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Export one shape and measure it, and upstream's side unless `--no-baseline` is given."""
    original = original_of(args)
    result, mesh = prepared(original, args)
    result |= errors(original, mesh, args.resolution)
    if not args.no_baseline:
        result |= decimated(original, args, float(str(result["decimate_seconds"])))
    if not args.only_prepare:
        field = voxels(original, args.resolution, alpha=args.alpha)
        result |= exported(original, mesh, field, args)
        if args.maps:
            result |= mapped(original, mesh, field, args)
    return result


def decimated(original: Mesh, args: argparse.Namespace, ours_s: float) -> dict[str, object]:
    """Measure meshoptimizer's decimation; `ours_s` is the time of ours."""
    other, seconds = decimated_by_meshoptimizer(original, args.faces, args.repeat)
    apart = errors(original, other, args.resolution)
    return {f"baseline_{name}": value for name, value in apart.items()} | {
        "baseline_decimate_seconds": seconds,
        "decimate_ratio": seconds / ours_s,
    }


def exported(
    original: Mesh, mesh: Mesh, field: VoxelField, args: argparse.Namespace
) -> dict[str, object]:
    """Export a prepared mesh and measure it, and upstream's side."""
    result: dict[str, object] = {"voxels": len(field.coords)}
    best = float("inf")
    content = b""
    for _ in range(args.repeat):
        stages = Stages()
        start, cpu = time.perf_counter(), time.process_time()
        with Pulse() as pulse:
            content = export.textured_glb(
                mesh, field, original=original, texture_size=args.texture, report=stages
            )
        seconds = time.perf_counter() - start
        if seconds < best:
            best = seconds
            own = sum(stages.seconds.get(k, 0.0) for k in ("unwrap", "bake.3", "encode", "pack"))
            result |= {
                "seconds": seconds,
                "own_cpu_seconds": own,
                "all_threads_cpu_seconds": time.process_time() - cpu,
                "stages": stages.seconds,
                "stall_ms": 1000 * pulse.longest,
                "bytes": len(content),
                "peak_mb": peak_mb(),
            }
    if args.save:
        args.save.write_bytes(content)
    result |= judge(content, original, field)
    result["validator"] = validate(content)
    if not args.no_baseline:
        other = baseline(mesh, args.texture, alpha=args.alpha, clusters_wanted=args.clusters)
        result |= other
        result["ratio"] = other["baseline_seconds"] / float(str(result["own_cpu_seconds"]))
    return result


def mapped(
    original: Mesh, mesh: Mesh, field: VoxelField, args: argparse.Namespace
) -> dict[str, object]:
    """Export without and with a normal map and occlusion, by turns, and measure the maps."""
    wall, cpu = {False: float("inf"), True: float("inf")}, {False: float("inf"), True: float("inf")}
    content = b""
    for _ in range(args.repeat):
        for has_maps in (False, True):
            start, cpu_start = time.perf_counter(), time.process_time()
            content = export.textured_glb(
                mesh, field, original=original, texture_size=args.texture, normal_map=has_maps,
                occlusion=has_maps,
            )  # fmt: skip
            wall[has_maps] = min(wall[has_maps], time.perf_counter() - start)
            cpu[has_maps] = min(cpu[has_maps], time.process_time() - cpu_start)
    lods = tuple(target for target in (25_000, 5_000) if target < len(mesh.faces))
    levels = export.textured_glb(
        mesh, field, original=original, texture_size=args.texture, lods=lods
    )
    return {
        "maps_seconds": wall[True],
        "maps_ratio": wall[True] / wall[False],
        "maps_cpu_ratio": cpu[True] / cpu[False],
        "maps_bytes": len(content),
        "maps_validator": validate(content),
        **judge_normals(content, original),
        **judge_occlusion(content),
        "lods": Glb(levels).json["asset"]["extras"].get("lods"),
    }


def judge_all(args: argparse.Namespace, record: Record) -> None:
    """Print a table of the quality of all shapes, with upstream's charts of the same meshes."""
    columns = ("psnr_base", "psnr_metal_rough", "psnr_alpha", "seam", "faces_without_uv",
               "points_without_data", "stretch_p99", "baseline_stretch_p99", "use",
               "baseline_use", "validator")  # fmt: skip
    print("| shape |", " | ".join(columns), "|")
    print("|---" * (len(columns) + 1) + "|")
    for shape in SHAPES + DUAL_GRIDS:
        args.shape = shape
        result = measure(args)
        record.add("export", {"shape": shape} | result)
        cells = [result.get(name, "") for name in columns]
        cells = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
        print(f"| {shape} |", " | ".join(cells), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=200_000)
    parser.add_argument("--texture", type=int, default=2048)
    parser.add_argument("--original-faces", type=int, help="default: 3.5 times --faces")
    parser.add_argument("--shape", choices=(*SHAPES, *DUAL_GRIDS, "all"), default="blob")
    parser.add_argument("--mesh", type=Path, help="a mesh file instead of a shape")
    parser.add_argument("--remesh", action="store_true", help="at --resolution")
    parser.add_argument("--resolution", type=int, default=512, help="of the voxels")
    parser.add_argument("--alpha", action="store_true", help="a transparent base colour")
    parser.add_argument(
        "--clusters", type=int, help="cut the baseline's into about this many, see `cones`"
    )
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--repeat", type=int, default=1, help="number of runs, the fastest counts")
    parser.add_argument("--save", type=Path, help="write the GLB here")
    parser.add_argument("--maps", action="store_true", help="a normal map and occlusion, too")
    parser.add_argument("--only-prepare", action="store_true", help="clean and decimate only")
    add_option(parser)
    args = parser.parse_args()

    record = Record(__file__, args)
    start = time.perf_counter()
    export.warm_up()
    warm = time.perf_counter() - start
    if args.shape == "all":
        judge_all(args, record)
        return
    shape = args.mesh.name if args.mesh else args.shape
    result = {"shape": shape, "warm_up_seconds": warm} | measure(args)
    record.add("export", result)
    for key, value in result.items():
        print(f"{key:26} {value:.4g}" if isinstance(value, float) else f"{key:26} {value}")


if __name__ == "__main__":
    main()
