"""Measure decoder processes: what a picture costs more than in the server's own process.

    python bench/decoders.py [--json FILE] [--rounds 30]

Both sides decode the same pictures in turns, in one run. Times are the median of all rounds: of
wall time, which means something on an idle machine only, and of processor time, which for a decoder
is that of both processes. The memory is that of an idle decoder after the pictures: `Pss` counts a
page that n processes share as 1/n.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.record import Record, add_option
from trellis2_server import pipeline
from trellis2_server.decoders import pictures
from trellis2_server.inputs.images.decoding import decode_image
from trellis2_server.reports import no_check
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_PIXELS = Settings().server.max_image_pixels


def photograph(size: int, kind: str) -> bytes:
    """A smooth picture with some noise, as a camera makes it."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[0:size, 0:size] / size
    colors = np.stack([x, y, (x + y) / 2], -1) * 200 + random.normal(20, 8, (size, size, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(colors, 0, 255).astype(np.uint8)).save(file, kind, quality=90)
    return file.getvalue()


def milliseconds(call: Callable[[], object], pids: Sequence[int]) -> tuple[float, float]:
    """Return the wall time, and the processor time of this thread and of other processes."""
    cpu, wall = cpu_seconds(pids), time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - wall), 1000 * (cpu_seconds(pids) - cpu)


def cpu_seconds(pids: Sequence[int]) -> float:
    others = (Path(f"/proc/{pid}/schedstat").read_text("ascii") for pid in pids)
    return time.thread_time() + sum(int(text.split()[0]) / 1e9 for text in others)


def pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise LookupError("Pss")


def measure(rounds: int) -> dict[str, Any]:
    files = {
        f"{kind} {size} px": photograph(size, kind)
        for kind, size in (("JPEG", 512), ("PNG", 1024), ("JPEG", 1024), ("JPEG", 4000))
    }
    results: dict[str, Any] = {"pictures": {}}
    with closing(pipeline.make_decoders(Settings())) as decoders:

        def outside(data: bytes) -> object:
            return pictures.decode_image(decoders, data, max_pixels=MAX_PIXELS, check=no_check)

        def inside(data: bytes) -> object:
            return decode_image(data, max_pixels=MAX_PIXELS)

        first = next(iter(files.values()))
        results["first_call_ms"] = milliseconds(lambda: outside(first), ())[0]
        results["start_cpu_ms"] = 1000 * (cpu_seconds(decoders.pids) - time.thread_time())
        for name, data in files.items():
            times: dict[str, list[float]] = {}
            for _ in range(rounds):
                for side, call in (("inside", inside), ("outside", outside)):
                    wall, cpu = milliseconds(lambda call=call, data=data: call(data), decoders.pids)
                    times.setdefault(f"{side}_ms", []).append(wall)
                    times.setdefault(f"{side}_cpu_ms", []).append(cpu)
            medians = {kind: statistics.median(values) for kind, values in times.items()}
            results["pictures"][name] = {
                **medians,
                "more_ms": medians["outside_ms"] - medians["inside_ms"],
                "more_cpu_ms": medians["outside_cpu_ms"] - medians["inside_cpu_ms"],
                "least_more_ms": min(times["outside_ms"]) - min(times["inside_ms"]),
                "bytes": len(data),
            }
        (pid,) = decoders.pids
        results["pss_mb"] = pss_bytes(pid) / 1e6
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    parser.add_argument("--rounds", type=int, default=30)
    parsed = parser.parse_args()
    record = Record(__file__, parsed)
    results = measure(parsed.rounds)
    for name, row in results["pictures"].items():
        record.add("pictures", {"picture": name} | row)
    record.add("decoder", {key: value for key, value in results.items() if key != "pictures"})
    columns = (
        "inside_ms",
        "outside_ms",
        "more_ms",
        "least_more_ms",
        "inside_cpu_ms",
        "more_cpu_ms",
    )
    print(f"{'picture':14} {'bytes':>9}", *(f"{name:>14}" for name in columns))
    for name, row in results["pictures"].items():
        print(f"{name:14} {row['bytes']:9}", *(f"{row[column]:14.1f}" for column in columns))
    print(
        f"first call {results['first_call_ms']:.0f} ms, {results['start_cpu_ms']:.0f} ms of "
        f"processor time; one decoder {results['pss_mb']:.0f} MB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
