"""Put bugs in, one at a time, and list those that no test notices.

    python tests/mutation/run.py [--room jobs] [--file trellis2_server/jobs/queue.py]
        [--sample 60] [--seed TEXT] [--changed-since REF] [--latest] [--json mutants.json]

Prints each mutant that survives, with its change, and for each room the share that is noticed, of
all that are not in `survivors.toml`. Test files that import the module are run once without a
change, nearest first, and what lines each test runs is kept in `.pytest_cache/mutation`; a mutant
then meets the tests that run its line, the quickest first (`choice.py`). The same seed draws the
same mutants from the same files. `--changed-since` draws from the files that commits after REF have
changed, the latest first, and `--latest` from those of the last commits, as many as are needed.
Exits with 1 if the share of all rooms is below `--fail-under`.

mutmut puts all mutants into one file and chooses at run time, which numba cannot compile, and
leaves out decorated functions; cosmic-ray starts a process for each mutant, whose imports take
longer than most tests here. Neither draws from the files of the last commits.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT)]
# Before NumPy: a process with threads cannot be forked.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

from tests.mutation import survivors  # noqa: E402 - after the path is set
from tests.mutation.choice import LONGEST, choose, lines_that_run  # noqa: E402
from tests.mutation.operators import Mutant, mutants  # noqa: E402
from tests.mutation.reach import Measured, MeasuredFile, MeasuredFiles  # noqa: E402
from tests.mutation.runner import Runner, copy_tree, warm_up  # noqa: E402
from tests.mutation.selection import (  # noqa: E402
    ROOMS,
    NearbyTests,
    files_of_room,
    is_own,
    recent_files,
    room_of,
)

if TYPE_CHECKING:
    from types import FrameType

#: With `--latest`: files are added until they have so many times more mutants than are drawn.
_POOL_FACTOR: Final = 3
#: Tests of a file that have not been measured after this time are left out, seconds.
_PATIENCE_S: Final = 40.0


def read_arguments() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--room", action="append", choices=ROOMS, help="default: all")
    parser.add_argument("--file", action="append", help="instead of rooms; may be repeated")
    parser.add_argument("--sample", type=int, default=0, help="mutants; default: all")
    parser.add_argument("--seed", default="", help="for example the hash of the commit")
    parser.add_argument("--changed-since", metavar="REF")
    parser.add_argument("--latest", action="store_true")
    parser.add_argument("--test-seconds", type=float, default=20.0, help="tests of one mutant")
    parser.add_argument(
        "--measuring-seconds", type=float, default=300.0, help="tests for one file's mutants"
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--fail-under", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--json", type=Path, help="write all mutants there")
    parser.add_argument("--list", action="store_true", help="only print what would be run")
    return parser.parse_args()


def draw(arguments: argparse.Namespace) -> list[Mutant]:
    """Return the mutants to run, in the order of files and places."""
    rooms = arguments.room or ROOMS
    files = arguments.file or [each for room in rooms for each in files_of_room(ROOT, room)]
    if arguments.latest or arguments.changed_since:
        known = set(files)
        files = [each for each in recent_files(ROOT, arguments.changed_since) if each in known]
    pool: list[Mutant] = []
    for file in files:
        if arguments.latest and len(pool) > _POOL_FACTOR * arguments.sample:
            break
        pool += mutants(file, (ROOT / file).read_bytes())
    chance = random.Random(arguments.seed)  # noqa: S311 - a sample
    chance.shuffle(pool)
    drawn: list[Mutant] = []
    for mutant in pool:
        if arguments.sample and len(drawn) == arguments.sample:
            break
        if mutant.compiles((ROOT / mutant.path).read_bytes()):
            drawn.append(mutant)
    return sorted(drawn, key=lambda each: (each.path, each.start, each.after))


def is_kernel(path: str) -> bool:
    """Whether numba compiles what is in a file."""
    return "/kernels/" in path


class _StoppedError(Exception):
    """The run was told to stop."""


def _stop(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise _StoppedError


class Session:
    """Runs mutants in one copy of the repository.

    Args:
        folder: empty.
        test_seconds: that the tests of a mutant take together.
        measuring_seconds: files of tests are measured, nearest first, until they take longer.
    """

    def __init__(self, folder: Path, test_seconds: float, measuring_seconds: float) -> None:
        tree = copy_tree(ROOT, folder / "tree")
        self._runner = Runner(tree, folder / "scratch")
        self._tests = NearbyTests(ROOT)
        self._test_seconds = test_seconds
        self._measuring_seconds = measuring_seconds
        self._kept = MeasuredFiles(ROOT / ".pytest_cache" / "mutation", tree)
        self._known: dict[tuple[str, str], MeasuredFile] = {}

    def tests(self, mutant: Mutant) -> list[dict[str, float]]:
        """Return tests for a mutant, by the file that they are in: as many as fit."""
        path = mutant.path
        lines = lines_that_run((ROOT / path).read_bytes(), mutant.line)
        chosen = choose(self._near(path, lines), path, lines, self._test_seconds)
        if not chosen:
            print(f"no test can run for {path}", file=sys.stderr)
        return chosen

    def _near(self, path: str, lines: int) -> dict[str, dict[str, Measured]]:
        """Return measured tests by file, nearest first: of as many files as there is time for.

        Files of other folders only where no test of the module's own folder runs the lines.
        """
        is_compiled = not is_kernel(path)
        kind = f"{'compiled' if is_compiled else 'interpreted'}-{self._test_seconds:g}"
        nearest = self._tests.nearest(path)
        for file in nearest:
            if (file, kind) not in self._known and (kept := self._kept.get(file, kind)):
                self._known[file, kind] = kept
        new = [file for file in nearest if (file, kind) not in self._known]
        longest_s = self._test_seconds * LONGEST
        measuring = self._runner.measure(
            new, is_compiled=is_compiled, limit_s=_PATIENCE_S, longest_s=longest_s
        )
        found: dict[str, dict[str, Measured]] = {}
        left_s, is_run = self._measuring_seconds, False
        with contextlib.closing(measuring):
            for file in nearest:
                if left_s <= 0 or (is_run and not is_own(path, file)):
                    break
                if (file, kind) not in self._known:
                    self._known[file, kind] = next(measuring)
                    self._kept.put(file, kind, self._known[file, kind])
                found[file] = self._known[file, kind].tests
                left_s -= self._known[file, kind].seconds
                is_run = is_run or any(
                    test.lines.get(path, 0) & lines for test in found[file].values()
                )
        return found

    def row(self, mutant: Mutant) -> dict[str, Any]:
        """Run one mutant."""
        started = time.monotonic()
        tests = self.tests(mutant)
        prepared = time.monotonic()
        compiled = not is_kernel(mutant.path)
        noticed = self._runner.noticed(mutant, tests, is_compiled=compiled)
        return {
            "file": mutant.path,
            "function": mutant.function,
            "line": mutant.line,
            "operator": mutant.operator,
            "before": mutant.before,
            "after": mutant.after,
            "room": room_of(mutant.path),
            "is_noticed": noticed is not None,
            "by": noticed and noticed.by,
            "is_late": noticed is not None and noticed.is_late,
            "tests": [next(iter(some)).split("::")[0] for some in tests],
            "seconds": round(time.monotonic() - prepared, 2),
            "preparing_seconds": round(prepared - started, 2),
        }


def run_all(drawn: list[Mutant], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run mutants in as many processes as asked for; print the survivors as they are found."""
    warm_up(with_torch=any("/portable/" in each.path for each in drawn))
    listed = survivors.reasons()
    files: list[Path] = []
    children: list[int] = []
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        for number in range(max(1, arguments.processes)):
            own = Path(folder) / str(number)
            own.mkdir()
            files.append(own / "rows.jsonl")
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    _work(drawn[number :: arguments.processes], own, listed, arguments)
                    code = 0
                except _StoppedError:  # what has been run so far counts
                    code = 0
                finally:
                    sys.stdout.flush()
                    os._exit(code)
            children.append(child)
        codes: list[int] = []
        for child in children:
            while True:
                try:
                    codes.append(os.waitpid(child, 0)[1])
                    break
                except _StoppedError:
                    for each in children:
                        os.kill(each, signal.SIGTERM)
        rows = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    if any(codes):
        raise SystemExit("a process of the run has failed")
    return sorted(rows, key=lambda row: (row["file"], row["line"], row["after"]))


def _work(
    drawn: list[Mutant],
    folder: Path,
    listed: dict[tuple[str, str, str, str], str],
    arguments: argparse.Namespace,
) -> None:
    session = Session(folder, arguments.test_seconds, arguments.measuring_seconds)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as rows:
        for mutant in drawn:
            row = {"reason": listed.get(survivors.key_of(mutant))}
            if row["reason"] is None:
                row |= session.row(mutant)
                if not row["is_noticed"]:
                    _print_survivor(row)
            else:
                row |= {"file": mutant.path, "line": mutant.line, "after": mutant.after}
                row |= {"room": room_of(mutant.path), "is_noticed": False}
            rows.write(json.dumps(row) + "\n")
            rows.flush()


def _print_survivor(row: dict[str, Any]) -> None:
    print(f"\n{row['file']}:{row['line']} {row['function']} ({row['operator']})")
    print(f"  - {row['before']}\n  + {row['after']}", flush=True)


def scores(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return by room, and for "all", how many mutants there are, listed, noticed, and the share."""
    rooms: dict[str, dict[str, Any]] = {}
    for row in rows:
        for room in (row["room"], "all"):
            room_row = rooms.setdefault(room, {"mutants": 0, "listed": 0, "noticed": 0})
            room_row["mutants"] += 1
            room_row["listed"] += row["reason"] is not None
            room_row["noticed"] += row["is_noticed"]
    for room_row in rooms.values():
        judged = room_row["mutants"] - room_row["listed"]
        room_row["share"] = room_row["noticed"] / judged if judged else 1.0
    return dict(sorted(rooms.items(), key=lambda item: (item[0] == "all", item[0])))


def main() -> int:
    """Run the command line."""
    arguments = read_arguments()
    drawn = draw(arguments)
    if arguments.list:
        for mutant in drawn:
            print(f"{mutant.path}:{mutant.line}: {mutant.before}  ->  {mutant.after}")
        return 0
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    started = time.monotonic()
    rows = run_all(drawn, arguments)
    table = scores(rows)
    print(f"\n{'room':20} {'mutants':>8} {'listed':>8} {'noticed':>8} {'share':>7}")
    for room, row in table.items():
        counts = f"{row['mutants']:8} {row['listed']:8} {row['noticed']:8}"
        print(f"{room:20} {counts} {row['share']:7.0%}")
    print(f"{time.monotonic() - started:.0f} s, seed {arguments.seed!r}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"scores": table, "mutants": rows}, indent=1))
    return int(bool(rows) and table["all"]["share"] < arguments.fail_under)


if __name__ == "__main__":
    sys.exit(main())
