"""What a benchmark measured, as a JSON file: `--json FILE` of each of them.

    bench      name of the file in `bench/`
    arguments  of the command line; of a file or folder, its name only
    commit     of the measured checkout, and `is_dirty`: whether tracked files differ from it.
               null where git does not know the checkout, as in an unpacked archive
    against    the same two of the other checkout; only if one was measured
    machine    processor, cores, memory, system, versions: no name of the machine, user or folder
    started    UTC, ISO 8601
    rows       what was measured; `table` says which of them belong together

The file is replaced after each row, so a run that is stopped leaves what it had.
`docs/measured/` has such files, from which `docs/tools/tables.py` makes tables.

Does not know: what is measured.
"""

from __future__ import annotations

import datetime as dt
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

ROOT: Final = Path(__file__).resolve().parents[1]
#: Packages on which figures depend.
PACKAGES: Final = (
    "fastapi", "meshoptimizer", "numba", "numpy", "onnxruntime", "opencv-python-headless", "pillow",
    "ray", "rembg", "torch", "trimesh", "triton", "uvicorn", "xatlas",
)  # fmt: skip
_SHOWN_DIGITS: Final = 6


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add `--json FILE`, the same for each benchmark."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows there, too")


class Record:
    """The rows of a run.

    Args:
        bench: file of the benchmark.
        arguments: of its command line; `json` is the file, None: nothing is written. An `against`
            in them is another checkout.
        checkout: that is measured.

    Attributes:
        data: what is written.
    """

    def __init__(
        self, bench: str | Path, arguments: argparse.Namespace, *, checkout: Path = ROOT
    ) -> None:
        given = {name: value for name, value in vars(arguments).items() if name != "json"}
        self.data: dict[str, Any] = {
            "bench": Path(bench).name,
            "arguments": {
                name: _without_folders(value) for name, value in given.items() if name != "against"
            },
            **state_of(checkout),
        }
        if given.get("against"):
            self.data["against"] = state_of(given["against"])
        self.data |= {"machine": machine(), "started": started(), "rows": []}
        self._file: Path | None = arguments.json

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        """Add a row to a table, and write the file."""
        self.data["rows"].append({"table": table} | {k: _rounded(v) for k, v in row.items()})
        if self._file is not None:
            beside = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            beside.write_text(json.dumps(self.data, indent=1) + "\n", encoding="utf-8")
            beside.replace(self._file)


def state_of(checkout: Path) -> dict[str, Any]:
    """Return the commit of a checkout, and whether its tracked files differ from that."""
    top = _git(checkout, "rev-parse", "--show-toplevel")
    # A copy without its own repository, inside of another one, has not that one's commit.
    if not top or not Path(top).is_dir() or not Path(top).samefile(checkout):
        return {"commit": None, "is_dirty": None}
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _git(checkout, "rev-parse", "HEAD"), "is_dirty": changed != ""}


def started() -> str:
    """Return the time, UTC."""
    return dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@functools.cache
def machine() -> dict[str, Any]:
    """Return processor, cores, memory, system, and versions of Python and packages."""
    return {
        "processor": processor(),
        "cores": cores(),
        "memory_gib": memory_gib(),
        "system": " ".join(filter(None, (platform.system(), platform.machine(), _libc()))),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def processor() -> str:
    """Return the model of the processor; where the system does not say, its architecture."""
    if sys.platform == "darwin":
        found = _output("sysctl", "-n", "machdep.cpu.brand_string")
    else:
        lines = _read(Path("/proc/cpuinfo")).splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        found = named[0] if named else None
    return found or platform.processor() or platform.machine()


def cores() -> int:
    """Return how many cores this process may use; of all, where the system does not say."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def memory_gib() -> float | None:
    """Return the memory of the machine, GiB; None where the system does not say (Windows)."""
    sysconf: Any = getattr(os, "sysconf", None)
    if sysconf is None:
        return None
    try:
        return round(sysconf("SC_PAGE_SIZE") * sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        return None


def _libc() -> str:
    return "-".join(filter(None, platform.libc_ver()))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(checkout: Path, *command: str) -> str | None:
    return _output("git", "-C", str(checkout), *command)


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _without_folders(value: Any) -> Any:
    """Return a value as JSON has it; of a path its last part."""
    if isinstance(value, PurePath) or (isinstance(value, str) and Path(value).is_absolute()):
        return Path(value).name
    if isinstance(value, list | tuple):
        return [_without_folders(each) for each in value]
    return value


def _rounded(value: Any) -> Any:
    """Return numbers with six digits, also those of NumPy."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.{_SHOWN_DIGITS}g}")
    if isinstance(value, dict):
        return {str(k): _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
