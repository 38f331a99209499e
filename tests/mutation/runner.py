"""Run tests against a mutant, in a forked process of a process that is warm.

The warm process has imported the packages that take long, nothing of this project, and has no
threads. A child works in a copy of the repository, where one file is changed, and runs pytest in
itself on one test file after the other, until one fails. Needs `fork`: not for Windows.

numba keeps compiled loops beside their source, by its time and size. Files of loops call no loops
of other files (`lint-imports` checks that), so no cached loop contains a changed one. Loops are run
by the interpreter where a file of loops is changed: a mutant then takes milliseconds instead of the
time of the compiler.

Does not know: how mutants and tests are chosen.
"""

from __future__ import annotations

import compileall
import contextlib
import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from tests.mutation.reach import Measured, MeasuredFile
from tests.mutation.rows import MeasuringReporter, Reporter, Row, Rows

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from tests.mutation.operators import Mutant

#: Imported by the warm process, if installed.
_HEAVY: Final = (
    "_pytest.assertion.rewrite",
    "numpy",
    "numpy.testing",
    "scipy.spatial",
    "scipy.ndimage",
    "scipy.sparse",
    "numba",
    "numba.core.caching",
    "PIL.Image",
    "PIL.ImageDraw",
    "PIL.PngImagePlugin",
    "PIL.WebPImagePlugin",
    "PIL.ImageCms",
    "fastapi",
    "fastapi.testclient",
    "starlette.applications",
    "uvicorn",
    "uvicorn.protocols.http.h11_impl",
    "httpx",
    "httpcore",
    "anyio._backends._asyncio",
    "asyncio",
    "pydantic",
    "hypothesis",
    "hypothesis.stateful",
    "hypothesis.extra.numpy",
    "trimesh",
    "concurrent.futures.process",
    "sqlite3",
    "xatlas",
    "xml.dom.minidom",
    "hypothesis.strategies._internal.core",
    "coverage",
    "coverage.sqldata",
    "_hypothesis_pytestplugin",
)
#: For files below these folders also.
_HEAVY_TORCH: Final = ("torch", "torch.nn.functional")
_PASSED, _NO_TESTS = 0, 5
_MIN_LIMIT_S: Final = 10.0
_LIMIT_FACTOR: Final = 5.0
_MEMORY_BYTES: Final = 24 << 30
_FILE_BYTES: Final = 4 << 30


@dataclass(frozen=True, slots=True)
class Noticed:
    """Why a mutant is noticed.

    Attributes:
        by: the test that failed, or the file of tests that did not run to its end.
        is_late: whether it was stopped at its time limit.
    """

    by: str
    is_late: bool = False


def warm_up(*, with_torch: bool = False) -> None:
    """Import packages that take long, before a `Runner` is used, in a process without threads."""
    for name in [*_HEAVY, *(_HEAVY_TORCH if with_torch else ())]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()


def copy_tree(root: Path, target: Path) -> Path:
    """Copy the files of a repository that git knows or does not ignore, and compiled loops."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
    for path in (root / "trellis2_server").rglob("__pycache__/*.nb?"):
        copied = target / path.relative_to(root)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copied)
    compileall.compile_dir(target / "trellis2_server", quiet=1)
    if (root / "node_modules").is_dir():
        (target / "node_modules").symlink_to(root.resolve() / "node_modules")
    return target


class Runner:
    """Runs test files in a copy of the repository, which belongs to it.

    Args:
        tree: see `copy_tree`.
        scratch: an empty folder for what tests write.
    """

    def __init__(self, tree: Path, scratch: Path) -> None:
        self._tree = tree
        self._scratch = scratch

    def measure(
        self, files: Sequence[str], *, is_compiled: bool, limit_s: float, longest_s: float
    ) -> Generator[MeasuredFile]:
        """Yield for each file of tests those that pass without a change.

        Args:
            files: run one after the other, as far as the iterator is asked.
            is_compiled: whether numba compiles.
            limit_s: tests of a file that have not ended after this time are left out.
            longest_s: a test that takes longer fails.
        """
        left = deque(files)
        while left:
            tests: dict[str, Measured] = {}
            started = time.monotonic()
            ends = started + limit_s
            rows = self._run(
                [[file] for file in left], is_compiled=is_compiled, longest_s=longest_s
            )
            with contextlib.closing(rows):
                while left and (row := rows.next(ends - time.monotonic())):
                    if row.name == left[0]:
                        yield MeasuredFile(time.monotonic() - started, tests)
                        left.popleft()
                        tests, started = {}, time.monotonic()
                        ends = started + limit_s
                    elif not row.has_failed:
                        tests[row.name] = Measured(row.seconds, row.lines)
            if left:  # it took too long, or ended the process
                yield MeasuredFile(time.monotonic() - started, tests)
                left.popleft()

    def noticed(
        self, mutant: Mutant, tests: Sequence[dict[str, float]], *, is_compiled: bool
    ) -> Noticed | None:
        """Return what notices a mutant first; None: nothing does.

        Args:
            mutant: the change.
            tests: those of one file after the other, with the seconds that they take unchanged.
            is_compiled: whether numba compiles.
        """
        slowest_s = max((each for some in tests for each in some.values()), default=0.0)
        limit_s = _MIN_LIMIT_S + _LIMIT_FACTOR * slowest_s
        left = {name: None for some in tests for name in some}
        with self._changed(mutant):
            rows = self._run([list(each) for each in tests], is_compiled=is_compiled)
            with contextlib.closing(rows):
                while row := rows.next(limit_s):
                    if row.has_failed:
                        return Noticed(row.name)
                    left.pop(row.name, None)
        return Noticed(next(iter(left)), is_late=rows.is_late) if left else None

    @contextlib.contextmanager
    def _changed(self, mutant: Mutant) -> Generator[None]:
        path = self._tree / mutant.path
        source, times = path.read_bytes(), path.stat()
        for cached in path.parent.glob(f"__pycache__/{path.stem}.*.py[co]"):
            cached.unlink()
        path.write_bytes(mutant.apply(source))
        try:
            yield
        finally:
            path.write_bytes(source)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def _run(
        self,
        tests: Sequence[Sequence[str]],
        *,
        is_compiled: bool,
        longest_s: float | None = None,
    ) -> Rows:
        shutil.rmtree(self._tree / ".hypothesis", ignore_errors=True)
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir()
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(readable)
            # Later runs read the bytecode of tests, but not that of a mutant.
            sys.dont_write_bytecode = longest_s is None
            self._child(tests, writable, is_compiled=is_compiled, longest_s=longest_s)
        os.close(writable)
        return Rows(child, readable)

    def _child(
        self,
        tests: Sequence[Sequence[str]],
        pipe: int,
        *,
        is_compiled: bool,
        longest_s: float | None,
    ) -> NoReturn:
        code, stops = 1, longest_s is None
        try:
            os.setpgid(0, 0)
            _prepare_child(self._tree, self._scratch, is_compiled=is_compiled)
            report = (
                Reporter(pipe)
                if longest_s is None
                else MeasuringReporter(pipe, self._tree, longest_s)
            )
            for some in tests:
                code = _pytest(some, self._scratch, report, is_compiled=is_compiled, stops=stops)
                has_failed = code not in (_PASSED, _NO_TESTS)
                if has_failed or not stops:
                    report.write(Row(some[0].split("::")[0], 0.0, has_failed, {}))
                if has_failed and stops:
                    break
        except BaseException:  # noqa: BLE001 - the parent sees that lines are missing
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)


def _prepare_child(tree: Path, scratch: Path, *, is_compiled: bool) -> None:
    """Make the forked process one that has been started in the copy."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    silence = os.open(os.devnull, os.O_RDWR)
    log = os.open(scratch.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(silence, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(tree)
    for name in [
        each for each in sys.modules if each.split(".")[0] in ("tests", "trellis2_server")
    ]:
        del sys.modules[name]
    root = str(Path(__file__).resolve().parents[2])
    sys.path[:] = [str(tree), *(each for each in sys.path if each not in ("", root))]
    sys.path_importer_cache.clear()
    os.environ |= {
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1" if sys.dont_write_bytecode else "",
        "TMPDIR": str(scratch),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(scratch / "hypothesis"),
    }
    os.environ.pop("TRELLIS2_SERVER_NO_SKIPS", None)
    if not is_compiled:
        os.environ["NUMBA_DISABLE_JIT"] = "1"
        importlib.import_module("numba").config.DISABLE_JIT = 1
    # A mutant may ask for anything.
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))


def _pytest(
    tests: Sequence[str], scratch: Path, report: Reporter, *, is_compiled: bool, stops: bool
) -> int:
    import pytest

    arguments = ["-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--no-header", *tests]
    arguments += [f"--basetemp={scratch / 'pytest'}", "--tb=short"]
    arguments += [
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    ]  # the warm process has it
    if stops:
        arguments.append("-x")
    if not is_compiled:
        # Compiled loops overflow and divide as C does, without a word.
        arguments += ["-W", "ignore::RuntimeWarning"]
    return int(pytest.main(arguments, [report]))
