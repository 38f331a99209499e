"""What keeping results costs: time added to a job, memory, and packing of geometry.

    python bench/store.py              jobs with and without worker.result_dir
    python bench/store.py --pack 2500000   compression of a mesh of so many faces and its field

The jobs are the preview engine's, through the worker without HTTP; memory is the resident set
of a process of its own for each case.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trellis2_server.config import Settings, read_options
from trellis2_server.engine_preview import PreviewEngine
from trellis2_server.images import Cutter
from trellis2_server.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator


def picture(shade: int) -> bytes:
    image = Image.new("RGBA", (512, 512))
    draw = ImageDraw.Draw(image)
    draw.ellipse((40, 60, 470, 440), fill=(shade % 256, 90, 200, 255))
    draw.rectangle((200, 20, 300, 500), fill=(60, shade % 256, 40, 255))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def resident_mb() -> float:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 1e6


async def run_jobs(jobs: int, folder: str | None, kept: int) -> dict[str, Any]:
    limits: dict[str, Any] = {"result_dir": folder, "max_kept_bytes": kept}
    settings = Settings.model_validate({"worker": limits, "model": {"background": "none"}})
    worker = Worker(PreviewEngine(), Cutter(background="none"), settings)
    worker.start()
    while worker.load.status == "loading":  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(0.01)
    options = read_options({"seed": 1, "texture_size": 1024, "decimation_target": 50_000}, settings)
    seconds: list[float] = []
    memory: list[float] = []
    size = 0
    for shade in range(jobs):
        content = picture(shade)
        begin = time.perf_counter()
        job = await worker.submit(content, options, texture=True)
        job = await worker.texture(job)
        size += len(await worker.results.content(job.textured_glb))
        seconds.append(time.perf_counter() - begin)
        while not worker.is_idle:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.005)
        memory.append(resident_mb())
    kept_bytes = worker._archive.size  # noqa: SLF001 - no route shows it
    await worker.close()
    warm = sorted(seconds[5:])
    return {
        "jobs": jobs,
        "seconds_median": round(warm[len(warm) // 2], 4),
        "seconds_p90": round(warm[int(len(warm) * 0.9)], 4),
        "resident_mb_after_20": round(memory[min(19, jobs - 1)], 1),
        "resident_mb_at_the_end": round(memory[-1], 1),
        "kept_mb": round(kept_bytes / 1e6, 1),
    }


def cases(jobs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as folder:
        for name, result_dir, kept in (
            ("memory, no geometry", None, 0),
            ("memory", None, 2**30),
            ("result_dir", folder, 2**30),
        ):
            asked = json.dumps([jobs, result_dir, kept])
            command = [sys.executable, __file__, "--one", asked]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            yield name, json.loads(done.stdout)


def pack(faces: int) -> dict[str, Any]:
    from export import surface, voxels

    from trellis2_server import kept
    from trellis2_server.mesh import Mesh, Shape, VoxelField

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
            lambda: kept.kept_shape(Shape(mesh, 1024, None)),
        ),
        (
            "field",
            field.coords.nbytes + field.attributes.nbytes,
            lambda: kept.kept_field(field),
        ),
    ):
        begin = time.thread_time()
        content = make()
        packed = time.thread_time()
        kept.unpack(content)
        out[name] = {
            "raw_mb": round(raw / 1e6, 1),
            "packed_mb": round(len(content) / 1e6, 1),
            "pack_seconds": round(packed - begin, 2),
            "unpack_seconds": round(time.thread_time() - packed, 2),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=60)
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
