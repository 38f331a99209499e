"""What keeping results costs: time on the event loop, memory, and packing of geometry.

    python bench/store.py                  200 jobs with and without a folder
    python bench/store.py --pack 2500000   compression of a mesh of so many faces and its field

A job's files are random bytes: a picture of 0.5 MB, a shape of 1.5 MB, a textured model of 3 MB.
Memory is the resident set of a process of its own for each case.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trellis2_server.storage.archive import Archive
from trellis2_server.storage.store import make_store

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = {"input.png": 500_000, "shape.glb": 1_500_000, "textured.glb": 3_000_000}


def resident_mb() -> float:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 1e6


async def run_jobs(jobs: int, folder: str | None) -> dict[str, Any]:
    archive = Archive(make_store(folder), max_packed_bytes=0)
    archive.open()
    before = resident_mb()
    on_loop: list[float] = []
    until_written: list[float] = []
    until_read: list[float] = []
    for _ in range(jobs):
        uid = str(uuid.uuid4())
        contents = {name: os.urandom(size) for name, size in SIZES.items()}
        begin = time.perf_counter()
        archive.record(uid, "a record")
        kept = [archive.keep(uid, name, content) for name, content in contents.items()]
        on_loop.append(time.perf_counter() - begin)
        await archive.written()
        until_written.append(time.perf_counter() - begin)
        del contents
        begin = time.perf_counter()
        await archive.read(kept[-1])
        until_read.append(time.perf_counter() - begin)
    out = {
        "jobs": jobs,
        "kept_mb": round(archive.size / 1e6),
        "resident_mb_more": round(resident_mb() - before),
        "keep_ms_median": round(1e3 * sorted(on_loop)[jobs // 2], 3),
        "written_ms_median": round(1e3 * sorted(until_written)[jobs // 2], 1),
        "read_ms_median": round(1e3 * sorted(until_read)[jobs // 2], 2),
    }
    await archive.close()
    if folder is not None:
        archive = Archive(make_store(folder), max_packed_bytes=0)
        begin = time.perf_counter()
        archive.open()
        out["open_again_ms"] = round(1e3 * (time.perf_counter() - begin), 1)
        await archive.close()
    return out


def cases(jobs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as folder:
        for name, result_dir in (("memory", None), ("result_dir", folder)):
            asked = json.dumps([jobs, result_dir])
            command = [sys.executable, __file__, "--one", asked]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            yield name, json.loads(done.stdout)


def pack(faces: int) -> dict[str, Any]:
    from bench.export_shapes import surface, voxels
    from trellis2_server.mesh import Mesh, Shape, VoxelField
    from trellis2_server.storage import snapshots

    noise = np.random.default_rng(0)
    cells = round((faces / 4.5) ** 0.5)
    mesh = surface("noise", cells)
    spread = noise.normal(0, 2e-4, mesh.vertices.shape)
    mesh = Mesh((mesh.vertices + spread).astype(np.float32), mesh.faces)
    field = voxels(mesh, 1024, alpha=False)
    blurred = field.attributes + noise.normal(0, 0.01, field.attributes.shape)
    field = VoxelField(field.coords, blurred.astype(np.float32), field.resolution)
    out: dict[str, Any] = {"faces": len(mesh.faces), "voxels": len(field.coords)}
    for name, raw, make in (
        (
            "shape",
            mesh.vertices.nbytes + mesh.faces.nbytes,
            lambda: snapshots.shape_snapshot(Shape(mesh, 1024, None)),
        ),
        (
            "field",
            field.coords.nbytes + field.attributes.nbytes,
            lambda: snapshots.field_snapshot(field),
        ),
    ):
        begin = time.thread_time()
        content = make()
        packed = time.thread_time()
        snapshots.unpack(content)
        out[name] = {
            "raw_mb": round(raw / 1e6, 1),
            "packed_mb": round(len(content) / 1e6, 1),
            "pack_seconds": round(packed - begin, 2),
            "unpack_seconds": round(time.thread_time() - packed, 2),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--pack", type=int, metavar="FACES")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(asyncio.run(run_jobs(*json.loads(asked.one)))))
    elif asked.pack:
        print(json.dumps(pack(asked.pack), indent=1))
    else:
        for name, figures in cases(asked.jobs):
            print(name, json.dumps(figures))


if __name__ == "__main__":
    main()
