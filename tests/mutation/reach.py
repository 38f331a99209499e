"""Which lines of the package each test runs, and how long it takes.

Measured by coverage.py with a context for each test, in the process of the tests: what other
processes run is not seen. Measurements are kept in a folder, and are valid while the package, what
the tests have in common and the test file are unchanged.

Does not know: mutants.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Measured:
    """One test that passes.

    Attributes:
        seconds: wall time, while lines were counted.
        lines: that it runs, by file, relative to the repository: bit n is line n.
    """

    seconds: float
    lines: dict[str, int]


@dataclass(frozen=True, slots=True)
class MeasuredFile:
    """The tests of a file, by name, that pass and end in time.

    Attributes:
        seconds: wall time of all of its tests, with those that do not pass.
        tests: in the order of the file.
    """

    seconds: float
    tests: dict[str, Measured]


def bits(lines: Iterable[int]) -> int:
    """Return a number whose bit n is set for each line n."""
    found = 0
    for line in lines:
        found |= 1 << line
    return found


class LineCounter:
    """Counts the lines of a folder's files that run in this process, from now on.

    Args:
        root: file names are relative to it.
        folder: in it.
    """

    def __init__(self, root: Path, folder: str) -> None:
        # The other ones of coverage.py report a line once, not once a context.
        os.environ["COVERAGE_CORE"] = "ctrace"
        import coverage

        self._root = root.resolve()
        self._coverage = coverage.Coverage(
            data_file=None,
            config_file=False,
            include=[f"{self._root / folder}/*"],
            messages=False,
        )
        self._coverage.start()

    def begin(self, name: str) -> None:
        """Count what runs from now on for a test."""
        self._coverage.switch_context(name)

    def end(self, name: str) -> dict[str, int]:
        """Return the lines that ran since `begin`, by file: bit n is line n."""
        self._coverage.switch_context("")
        data = self._coverage.get_data()
        data.set_query_context(name)
        found: dict[str, int] = {}
        for path in data.measured_files():
            if lines := data.lines(path):
                found[Path(path).relative_to(self._root).as_posix()] = bits(lines)
        return found


class MeasuredFiles:
    """Measurements that are kept in a folder.

    Args:
        folder: made when something is put there.
        root: of the repository.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder = folder
        self._root = root
        self._common = self._digest(
            path
            for top in ("trellis2_server", "tests")
            for path in sorted((root / top).rglob("*.py"))
            if top != "tests" or not (path.name.startswith("test_") or "mutation" in path.parts)
        )

    def get(self, file: str, kind: str) -> MeasuredFile | None:
        """Return a test file's measurement; None: there is none of the present sources.

        Args:
            file: of tests, relative to the repository.
            kind: how its tests were run.
        """
        try:
            kept = json.loads(self._path(file, kind).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        if kept["of"] != self._fingerprint(file):
            return None
        tests = {
            name: Measured(seconds, {path: int(text, 16) for path, text in lines.items()})
            for name, (seconds, lines) in kept["tests"].items()
        }
        return MeasuredFile(kept["seconds"], tests)

    def put(self, file: str, kind: str, measured: MeasuredFile) -> None:
        """Keep a test file's measurement."""
        tests = {
            name: (each.seconds, {path: f"{lines:x}" for path, lines in each.lines.items()})
            for name, each in measured.tests.items()
        }
        kept = {"of": self._fingerprint(file), "seconds": measured.seconds, "tests": tests}
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(file, kind)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(kept), "utf-8")
        partial.replace(path)

    def _path(self, file: str, kind: str) -> Path:
        return self._folder / f"{file.replace('/', '.')}.{kind}.json"

    def _fingerprint(self, file: str) -> str:
        return self._common + self._digest([self._root / file])

    def _digest(self, paths: Iterable[Path]) -> str:
        digest = hashlib.sha256(sys.version.encode())
        for path in paths:
            digest.update(path.relative_to(self._root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()
