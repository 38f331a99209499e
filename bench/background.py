"""Measure removing a background in the calling process, and as a server does it.

    U2NET_HOME=/path/to/models python bench/background.py photo.jpg

For rembg and for GrabCut: the first picture, which loads the model or the library, and the median
of the next ones, elapsed time and processor time of all processes; and memory at the end:
proportional set size (Linux) of the calling process and of those that it started. Each case runs
in a process of its own. The cut-outs of both ways are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import Record, add_option  # noqa: E402 - after the path is set

WAYS = ("here", "server")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def pss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def started(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    threads = children.parents[1].glob("*/children")
    return [int(child) for each in threads for child in each.read_text().split()]


def measure(way: str, background: Any, photo: Path, pictures: int) -> dict[str, Any]:
    """Cut one picture out several times in this process; return the figures."""
    from trellis2_server import pipeline
    from trellis2_server.engines.preview import PreviewEngine
    from trellis2_server.inputs.images import Cutter
    from trellis2_server.settings import Settings

    settings = Settings.model_validate({"model": {"background": background, "offline": True}})
    decoders = pipeline.make_decoders(settings)
    cutter = (
        Cutter(background=background)
        if way == "here"
        else pipeline.make_cutter(PreviewEngine(), settings, decoders)
    )
    content = photo.read_bytes()
    elapsed: list[float] = []
    processor: list[float] = []
    key = ""
    for _ in range(1 + pictures):
        before, begin = sum(map(cpu_s, [os.getpid(), *started(os.getpid())])), time.perf_counter()
        key = cutter.cut_out(content).key
        elapsed.append(time.perf_counter() - begin)
        processor.append(sum(map(cpu_s, [os.getpid(), *started(os.getpid())])) - before)
    result = {
        "key": key,
        "first_s": round(elapsed[0], 2),
        "first_cpu_s": round(processor[0], 2),
        "next_s": round(statistics.median(elapsed[1:]), 3),
        "next_cpu_s": round(statistics.median(processor[1:]), 3),
        "pss_mb": round(pss_mb(os.getpid())),
        "pss_of_others_mb": [round(pss_mb(pid)) for pid in started(os.getpid())],
    }
    cutter.close()
    decoders.close()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("photo", type=Path, help="an opaque picture")
    parser.add_argument("--pictures", type=int, default=5, help="pictures after the first one")
    add_option(parser)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.case:
        print(json.dumps(measure(*parsed.case, parsed.photo, parsed.pictures)))
        return 0
    record = Record(__file__, parsed)
    for background in ("rembg", "grabcut"):
        keys: set[str] = set()
        for way in WAYS:
            command = [sys.executable, __file__, str(parsed.photo), "--case", way, background]
            command += ["--pictures", str(parsed.pictures)]
            figures = json.loads(subprocess.check_output(command))
            keys.add(figures.pop("key"))
            record.add("background", {"background": background, "way": way} | figures)
            print(f"{background:8} {way:7} {json.dumps(figures)}", flush=True)
        assert len(keys) == 1, "the cut-outs differ"
    return 0


if __name__ == "__main__":
    sys.exit(main())
