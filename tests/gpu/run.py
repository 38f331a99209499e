"""TRELLIS.2 at full size on a GPU with random weights: errors, times, memory.

    TRELLIS2_HOME=path/to/TRELLIS.2 python tests/gpu/run.py [--device cuda]
        [--markdown docs/gpu.md] [--json FILE] [--types 512,1024] [--low-vram] [--steps 12]

Needs a checkout of TRELLIS.2, PyTorch and transformers; no weights, no compiled extensions.
The weights take about 16 GB of the device's memory; `--low-vram` keeps them on the CPU until
they are needed. Rows are printed as they are measured; a type that fails is a row with the
error. One call

1. compares each stand-in with a float64 reference on the device,
2. builds all of TRELLIS.2's models at their real size with random weights,
3. runs the stages of the four pipeline types through the engine at fixed numbers of tokens,
   measures time and peak memory of each, and of the same calls made directly,
4. exports each result,
5. runs ten more jobs and looks for memory that is not freed, and
6. prints all of it as tables, and exits with 1 if anything failed or is over its limit.

`--size tiny --device cpu` runs the same on any machine, to test the script.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from tests.gpu.measuring import GIB, Meter, find_leaks, measure_type  # noqa: E402
from tests.gpu.random_pipeline import build  # noqa: E402
from tests.gpu.report import problems, tables  # noqa: E402
from tests.gpu.standins import check_standins  # noqa: E402
from trellis2_server.engines.trellis2 import Trellis2Engine, environment  # noqa: E402
from trellis2_server.engines.trellis2.loaded_model import LoadedModel  # noqa: E402
from trellis2_server.engines.trellis2.pipeline_types import PIPELINE_TYPES  # noqa: E402
from trellis2_server.engines.trellis2.upstream import import_upstream  # noqa: E402
from trellis2_server.settings import ModelSettings  # noqa: E402


def read_arguments() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2, help="of each measurement")
    parser.add_argument("--types", default=",".join(PIPELINE_TYPES))
    parser.add_argument("--low-vram", action="store_true", help="models on the CPU until needed")
    parser.add_argument("--json", type=Path, help="write all figures there, after each type")
    parser.add_argument("--markdown", type=Path, help="write the tables there: docs/gpu.md")
    return parser.parse_args()


def main() -> int:
    """Run everything and print the tables."""
    arguments = read_arguments()
    settings = ModelSettings(
        engine="trellis2",
        device=arguments.device,
        trellis2_path=os.environ.get(environment.HOME_VARIABLE),
    )
    up = import_upstream(settings)
    torch = up.torch
    name = arguments.device
    if name.startswith("cuda"):
        torch.cuda.set_device(arguments.device if ":" in arguments.device else 0)
        properties = torch.cuda.get_device_properties(arguments.device)
        name = f"{properties.name}, {properties.total_memory / GIB:.0f} GiB"
    meter = Meter(torch, arguments.device)
    report: dict[str, Any] = {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "size": arguments.size,
        "steps": arguments.steps,
        "extensions": {e.name: e.kind for e in up.extensions},
    }
    print(json.dumps(report), flush=True)
    with torch.inference_mode():
        report["errors"] = check_standins(
            torch, arguments.device, 1024 if arguments.size == "full" else 64
        )
    print(json.dumps(report["errors"]), flush=True)
    # An out-of-memory error is a result here, so nothing is tried again.
    made = Trellis2Engine(settings, oom_fallback="none")
    with tempfile.TemporaryDirectory() as folder:
        pipeline, report["build_s"], report["build_gib"] = meter.run(
            lambda: build(
                up, arguments.size, arguments.device, Path(folder), low_vram=arguments.low_vram
            )
        )
    made.use(LoadedModel(up, pipeline))
    report["weights_gib"] = meter.allocated() / GIB
    print(f"built in {report['build_s']:.0f} s", flush=True)
    gc.freeze()  # as `load` does: garbage collections between jobs leave these objects out
    report["types"] = []
    for kind in arguments.types.split(","):
        row = measure_type(
            torch, made, pipeline, meter, kind, arguments.steps, arguments.size, arguments.rounds
        )
        report["types"].append(row)
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=1))
    try:
        after = find_leaks(made, meter, min(arguments.steps, 2), arguments.size)
    except Exception as error:  # noqa: BLE001 - the tables follow
        report["leaks_error"] = f"{type(error).__name__}: {error}"[:200]
    else:
        report["allocated_after_each_job"] = after
    text = tables(report)
    print(f"\n{text}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))
    if arguments.markdown:
        arguments.markdown.write_text(text)
    return 1 if any(problems(report)) else 0


if __name__ == "__main__":
    sys.exit(main())
