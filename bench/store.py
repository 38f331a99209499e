"""Measure the cost of storing results: event loop time, memory, serialization of geometry.

    python bench/store.py                      200 jobs with and without a folder
    python bench/store.py --snapshot 2500000   snapshots of a mesh with that many faces

`completion_saved` is what the reply to a completed job waits for: one more model of 1.5 MB, and
the record. A job's files are random bytes: a picture of 0.5 MB, a shape of 1.5 MB, a textured model
of 3 MB. Memory is the resident set of a separate process for each case.
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

from bench.record import Record, add_option
from trellis2_server.storage import make_store
from trellis2_server.storage.archive import Archive

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = {"input.png": 500_000, "shape.glb": 1_500_000, "textured.glb": 3_000_000}


def resident_mb() -> float:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 1e6


async def run_jobs(jobs: int, folder: str | None) -> dict[str, Any]:
    archive = Archive(make_store(folder), max_evictable_bytes=0)
    archive.open()
    model = os.urandom(SIZES["shape.glb"])
    before = resident_mb()
    on_loop: list[float] = []
    until_written: list[float] = []
    until_read: list[float] = []
    until_saved: list[float] = []
    for _ in range(jobs):
        uid = str(uuid.uuid4())
        contents = {name: os.urandom(size) for name, size in SIZES.items()}
        begin = time.perf_counter()
        archive.save_record(uid, "a record")
        stored = [archive.store_file(uid, name, content) for name, content in contents.items()]
        on_loop.append(time.perf_counter() - begin)
        await archive.wait_until_saved(uid)
        until_written.append(time.perf_counter() - begin)
        del contents
        begin = time.perf_counter()  # what a client waits for beyond the model itself
        archive.store_file(uid, "completed.glb", model)
        archive.save_record(uid, "completed")
        await archive.wait_until_saved(uid)
        until_saved.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        await (await archive.open_file(stored[-1])).read()
        until_read.append(time.perf_counter() - begin)
    out = {
        "jobs": jobs,
        "stored_mb": round(archive.size / 1e6),
        "resident_mb_more": round(resident_mb() - before),
        "store_ms_median": round(1e3 * sorted(on_loop)[jobs // 2], 3),
        "written_ms_median": round(1e3 * sorted(until_written)[jobs // 2], 1),
        "completion_saved_ms_median": round(1e3 * sorted(until_saved)[jobs // 2], 2),
        "completion_saved_ms_p95": round(1e3 * sorted(until_saved)[jobs * 95 // 100], 2),
        "read_ms_median": round(1e3 * sorted(until_read)[jobs // 2], 2),
    }
    await archive.close()
    if folder is not None:
        archive = Archive(make_store(folder), max_evictable_bytes=0)
        begin = time.perf_counter()
        archive.open()
        out["open_again_ms"] = round(1e3 * (time.perf_counter() - begin), 1)
        await archive.close()
    return out


def cases(jobs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as folder:
        for name, result_dir in (("memory", None), ("result_dir", folder)):
            arguments = json.dumps([jobs, result_dir])
            command = [sys.executable, __file__, "--one", arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            yield name, json.loads(done.stdout)


def serialize(faces: int) -> dict[str, Any]:
    from bench.export_shapes import surface, voxels
    from trellis2_server.mesh import Mesh, Shape, VoxelField
    from trellis2_server.storage import snapshots
    from trellis2_server.storage.serialization import deserialize_arrays

    noise = np.random.default_rng(0)
    cells = round((faces / 4.5) ** 0.5)
    mesh = surface("noise", cells)
    offsets = noise.normal(0, 2e-4, mesh.vertices.shape)
    mesh = Mesh((mesh.vertices + offsets).astype(np.float32), mesh.faces)
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
        serialized = time.thread_time()
        deserialize_arrays(content)
        out[name] = {
            "raw_mb": round(raw / 1e6, 1),
            "snapshot_mb": round(len(content) / 1e6, 1),
            "serialize_seconds": round(serialized - begin, 2),
            "deserialize_seconds": round(time.thread_time() - serialized, 2),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--snapshot", type=int, metavar="FACES")
    add_option(parser)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(asyncio.run(run_jobs(*json.loads(arguments.one)))))
        return
    record = Record(__file__, arguments)
    if arguments.snapshot:
        found = serialize(arguments.snapshot)
        record.add("snapshot", found)
        print(json.dumps(found, indent=1))
    else:
        for name, figures in cases(arguments.jobs):
            record.add("store", {"where": name} | figures)
            print(name, json.dumps(figures))


if __name__ == "__main__":
    main()
