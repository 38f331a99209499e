"""TRELLIS.2 on a GPU with random weights: what is right, how fast and how large it is.

    TRELLIS2_HOME=path/to/TRELLIS.2 python tests/gpu/run.py [--parts probe,tests,512]
        [--budget 420] [--json gpu.json] [--markdown gpu.md] [--files FOLDER] [--device cuda]
        [--needs]

Runs parts, most valuable first: see `part.py`. A part starts if its estimate fits into what is
left of the budget. Each row is on the disk as soon as it is measured; a part that fails, hangs
or is cut off is a row, and the others follow. Needs no weights and no compiled extensions.
`--needs` lists the packages that are missing. `--size tiny --device cpu` runs everything on any
machine, to test the script. Exits with 1 if something failed or is over its limit.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT)]

from bench import record  # noqa: E402 - after the path is set
from tests.gpu import needs  # noqa: E402
from tests.gpu.budget import Budget  # noqa: E402
from tests.gpu.part import BY_NAME, PARTS, Part  # noqa: E402
from tests.gpu.report import Report  # noqa: E402
from tests.gpu.supervisor import StoppedError, Supervisor  # noqa: E402
from tests.gpu.tables import document  # noqa: E402
from tests.gpu.thresholds import failures  # noqa: E402

if TYPE_CHECKING:
    from types import FrameType

#: All parts at full size, by their estimates, take less.
_DEFAULT_BUDGET_S: Final = 900.0


def read_arguments() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", type=_parts, default=PARTS, help="default: all, in order")
    parser.add_argument("--budget", type=float, default=_DEFAULT_BUDGET_S, help="seconds in all")
    parser.add_argument("--json", type=Path, help="write all rows there")
    parser.add_argument("--markdown", type=Path, help="write the tables there")
    parser.add_argument("--files", type=Path, help="keep exported GLBs in this folder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        help="a setting of `model`, for example patches=true or attention=cudnn; may be repeated",
    )
    parser.add_argument("--needs", action="store_true", help="list what this Python lacks")
    return parser.parse_args()


def _parts(names: str) -> tuple[Part, ...]:
    unknown = [name for name in names.split(",") if name not in BY_NAME]
    if unknown:
        raise argparse.ArgumentTypeError(f"no part {unknown[0]!r}; there are {', '.join(BY_NAME)}")
    return tuple(BY_NAME[name] for name in names.split(","))


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    words: dict[str, Any] = {"true": True, "false": False, "null": None}
    return name, words.get(value, value)


def _stop(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # nothing may come between what is written now
    raise StoppedError(f"stopped by {signal.Signals(number).name}")


def main() -> int:
    """Run the parts and print the tables."""
    arguments = read_arguments()
    if arguments.needs:
        text, has_everything = needs.report(arguments.parts)
        print(text)
        return 0 if has_everything else 1
    about: dict[str, Any] = {
        "device": arguments.device,
        "size": arguments.size,
        "weights": "random",
        "budget_s": arguments.budget,
        **record.state_of(ROOT),
        "machine": record.machine(),
        "started": record.started(),
    }
    settings = dict(arguments.settings)
    if settings:
        about["settings"] = settings
    report = Report(about, arguments.json, arguments.markdown)
    budget = Budget(arguments.budget, is_tiny=arguments.size == "tiny")
    options = {
        "device": arguments.device,
        "size": arguments.size,
        "settings": settings,
        "files": str(arguments.files.resolve()) if arguments.files else None,
    }
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), _stop)
    is_stopped = False
    try:
        Supervisor(options, report, budget).run(arguments.parts)
    except StoppedError:
        is_stopped = True
    report.save()
    print(f"\n{document(report.data)}", flush=True)
    return 1 if is_stopped or failures(report.data) else 0


if __name__ == "__main__":
    sys.exit(main())
