"""Plot the time of an export over faces and over texels, each size in its own process.

    python bench/export_scaling.py

writes `bench/export_scaling.svg` and prints the table. The plot shows the processor time of all
threads, which depends less on other load of the machine than wall time. The dotted lines are
linear. Needs the packages of bench/export.py without a baseline, and matplotlib.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import Record, add_option  # noqa: E402 - after the path is set

#: Numbers of faces at one texture size, texture sizes at one number of faces, and both varied.
FACES = [(faces, 2048) for faces in (50_000, 100_000, 200_000, 500_000, 1_000_000)]
TEXELS = [(200_000, size) for size in (512, 1024, 2048, 4096, 8192)]
BOTH = [(50_000, 1024), (200_000, 2048), (1_000_000, 4096), (2_000_000, 8192)]


def measure(faces: int, texture: int) -> dict[str, Any]:
    """Run bench/export.py once and return its row."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "export.json"
        command = [
            sys.executable, str(ROOT / "bench" / "export.py"), "--faces", str(faces),
            "--texture", str(texture), "--no-baseline", "--json", str(file),
        ]  # fmt: skip
        subprocess.run(command, capture_output=True, check=True)
        (row,) = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return row


def draw(found: dict[tuple[int, int], dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "export"
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    series = [
        (axes[0], FACES, lambda size: size[0], "faces, at 2048²"),
        (axes[1], TEXELS, lambda size: size[1] ** 2, "texels, at 200,000 faces"),
    ]
    for axis, sizes, amount, label in series:
        sizes = [size for size in sizes if size in found]  # noqa: PLW2901
        x = [amount(size) for size in sizes]
        y = [found[size]["all_threads_cpu_seconds"] for size in sizes]
        axis.loglog(x, y, "o-", label="textured_glb")
        axis.loglog(x, [y[-1] * a / x[-1] for a in x], "k:", lw=0.8, label="linear")
        axis.set_xlabel(label)
        for side in (axis.xaxis, axis.yaxis):
            side.set_minor_formatter(NullFormatter())
        axis.set_ylabel("processor time, s")
        axis.legend()
    both = [found[size] for size in BOTH if size in found]
    texels = [size[1] ** 2 for size in BOTH if size in found]
    axes[1].loglog(
        texels, [b["all_threads_cpu_seconds"] for b in both], "s--", label="50k/1024² … 2M/8192²"
    )
    axes[1].legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "export_scaling.svg")
    parser.add_argument("--most", type=int, default=2_000_000, help="maximum number of faces")
    parser.add_argument("--widest", type=int, default=8192, help="maximum texture size")
    add_option(parser)
    args = parser.parse_args()
    record = Record(__file__, args)
    found = {}
    print("| faces | texture | s | processor s | decimate s | peak MB | stall ms |")
    print("|---|---|---|---|---|---|---|")
    for faces, texture in dict.fromkeys(FACES + TEXELS + BOTH):
        if faces > args.most or texture > args.widest:
            continue
        result = found[faces, texture] = measure(faces, texture)
        record.add("export", result | {"target_faces": faces, "texture": texture})
        print(
            f"| {faces:,} | {texture}² | {result['seconds']:.2f} "
            f"| {result['all_threads_cpu_seconds']:.2f} | {result['decimate_seconds']:.2f} "
            f"| {result['peak_mb']:.0f} | {result['stall_ms']:.0f} |",
            flush=True,
        )
    draw(found, args.output)


if __name__ == "__main__":
    main()
