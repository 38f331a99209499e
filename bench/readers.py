"""Measure the readers of mesh files in text, beside trimesh in the same run.

    python bench/readers.py [--json FILE] [--faces 500000] [--rounds 3] [--forms OBJ "text STL" …]

Each side reads the same files in turns. Times are the least of all rounds, of processor time and of
wall time. `peak_mb` is the memory that reading takes besides the file, measured in a process of its
own (Linux).
"""

from __future__ import annotations

import argparse
import io
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import trimesh

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.record import Record, add_option
from trellis2_server.inputs.meshes import read_scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def relief(faces: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A square of about as many triangles, with half as many vertices and an uneven height."""
    side = max(int((faces / 2) ** 0.5) + 1, 2)
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(side), np.arange(side)))
    height = np.random.default_rng(0).normal(size=side * side)
    grid = np.arange(side * side).reshape(side, side)
    quads = np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]], -1)
    triangles = quads.reshape(-1, 4)[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    return np.stack([x / side, y / side, height / side], axis=1), triangles


def obj(points: NDArray[np.float64], faces: NDArray[np.int64]) -> bytes:
    lines = ["v {:.6f} {:.6f} {:.6f}\n".format(*point) for point in points.tolist()]
    lines += ["f {} {} {}\n".format(*face) for face in (faces + 1).tolist()]
    return "".join(lines).encode()


def obj_with_normals(points: NDArray[np.float64], faces: NDArray[np.int64]) -> bytes:
    lines = ["v {:.6f} {:.6f} {:.6f}\n".format(*point) for point in points.tolist()]
    lines += [f"vn 0.000000 {point[0]:.6f} 1.000000\n" for point in points.tolist()]
    lines += ["f {0}//{0} {1}//{1} {2}//{2}\n".format(*face) for face in (faces + 1).tolist()]
    return "".join(lines).encode()


def ply(points: NDArray[np.float64], faces: NDArray[np.int64]) -> bytes:
    header = (
        f"ply\nformat ascii 1.0\nelement vertex {len(points)}\nproperty float x\n"
        f"property float y\nproperty float z\nelement face {len(faces)}\n"
        "property list uchar int vertex_indices\nend_header\n"
    )
    lines = [header]
    lines += ["{:.6f} {:.6f} {:.6f}\n".format(*point) for point in points.tolist()]
    lines += ["3 {} {} {}\n".format(*face) for face in faces.tolist()]
    return "".join(lines).encode()


def stl(points: NDArray[np.float64], faces: NDArray[np.int64]) -> bytes:
    vertex = "      vertex {:.6f} {:.6f} {:.6f}\n"
    facet = (
        "  facet normal 0.0 0.0 1.0\n    outer loop\n" + 3 * vertex + "    endloop\n  endfacet\n"
    )
    rows = points[faces].reshape(-1, 9).tolist()
    return "".join(["solid\n", *(facet.format(*row) for row in rows), "endsolid\n"]).encode()


#: File types and writers; seconds that the reader may take for 500,000 faces.
FORMS: dict[str, tuple[str, Callable[[NDArray[Any], NDArray[Any]], bytes], float]] = {
    "OBJ": ("obj", obj, 0.8),
    "OBJ with normals": ("obj", obj_with_normals, 0.8),
    "text PLY": ("ply", ply, 0.5),
    "text STL": ("stl", stl, 1.0),
}


def read_with_trimesh(content: bytes, kind: str) -> object:
    return trimesh.load(io.BytesIO(content), file_type=kind, process=False)


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Return processor time and wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def peak_mb(form: str, faces: int) -> float:
    """Return the memory that reading a file takes, in a process of its own."""
    command = [sys.executable, __file__, "--peak-of", form, "--faces", str(faces)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def print_peak(form: str, faces: int) -> None:
    content = FORMS[form][1](*relief(faces))
    clear = Path("/proc/self/clear_refs")
    clear.write_text("5", "ascii")  # the peak counts from here
    before = _status("VmRSS")
    read_scene(content)
    print(_status("VmHWM") - before)


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    parser.add_argument("--faces", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--peak-of", choices=FORMS, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.peak_of:
        print_peak(parsed.peak_of, parsed.faces)
        return 0
    record = Record(__file__, parsed)
    points, faces = relief(parsed.faces)
    print(f"{'file':18} {'MB':>6} {'own s':>8} {'trimesh s':>10} {'goal s':>8} {'peak MB':>8}")
    for form in parsed.forms:
        kind, write, goal_s = FORMS[form]
        content = write(points, faces)
        own: list[tuple[float, float]] = []
        other: list[tuple[float, float]] = []
        for _ in range(parsed.rounds):
            own.append(seconds(lambda content=content: read_scene(content)))
            other.append(
                seconds(lambda content=content, kind=kind: read_with_trimesh(content, kind))
            )
        row = {
            "file": form,
            "bytes": len(content),
            "faces": len(faces),
            "own_cpu_s": min(cpu for cpu, _ in own),
            "own_s": min(wall for _, wall in own),
            "trimesh_cpu_s": min(cpu for cpu, _ in other),
            "trimesh_s": min(wall for _, wall in other),
            "goal_s": goal_s,
            "peak_mb": peak_mb(form, parsed.faces) if sys.platform == "linux" else None,
        }
        record.add("readers", row)
        print(
            f"{form:18} {len(content) / 1e6:6.1f} {row['own_cpu_s']:8.2f} "
            f"{row['trimesh_cpu_s']:10.2f} {goal_s:8.1f} {row['peak_mb'] or 0:8.0f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
