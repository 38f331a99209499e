"""Which files are changed, and which test files may notice.

The tests of a module, nearest first: the file that mirrors it (`tests/jobs/test_queue.py` for
`trellis2_server/jobs/queue.py`), files of the same folder, of the same room, others. Among the
first ones those whose names have more words in common, then those with fewer imports between; among
the others, where a word may mean another thing, those with fewer imports first.

Does not know: mutants, processes.
"""

from __future__ import annotations

import ast
import subprocess
from collections import deque
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PACKAGE: Final = "trellis2_server"
#: Rooms that are measured, by the folder in the package.
ROOMS: Final = (
    "jobs",
    "outbound",
    "storage",
    "api",
    "inputs",
    "export",
    "engines/preview",
    "engines/portable",
    "client",
    "decoders",
    "parameters",
    "drawing",
    "mcp",
    "cli",
)
#: Tests that take long, and that no other folder's modules are meant for.
_OWN_ONLY: Final = (
    "tests/cli",
    "tests/docs",
    "tests/gpu",
    "tests/hostile",
    "tests/mutation",
    "tests/page",
    "tests/ray_serve",
    "tests/engines/trellis2",
)
#: More imports than this between a test and a module, and the test is not about it.
_FARTHEST: Final = 3


def files_of_room(root: Path, room: str) -> list[str]:
    """Return the Python files of a room, relative to the repository, sorted."""
    found = (root / PACKAGE / room).rglob("*.py")
    return sorted(path.relative_to(root).as_posix() for path in found)


def room_of(path: str) -> str:
    """Return the room of a file; "": none that is measured."""
    inner = path.removeprefix(f"{PACKAGE}/")
    return next((room for room in ROOMS if inner.startswith(f"{room}/")), "")


def recent_files(root: Path, since: str | None = None) -> list[str]:
    """Return the files that commits changed, the latest first, each once.

    Args:
        root: of the repository.
        since: a commit; only those after it count. None: all.
    """
    commits = "HEAD" if since is None else f"{since}..HEAD"
    command = ["git", "log", "--name-only", "--format=", commits]
    log = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return list(dict.fromkeys(line for line in log.splitlines() if line))


def is_own(path: str, test: str) -> bool:
    """Whether a test file is one of those of a module's folder.

    So are those that compare results with recorded ones, of the folder above.
    """
    folder, file = PurePosixPath("tests", *PurePosixPath(path).parts[1:-1]), PurePosixPath(test)
    if folder.name == "kernels" and file.parent.name == PurePosixPath(path).stem:
        return True  # they may stand in the folder of what they are loops of
    # The tests of `kernels/charts.py` may stand in the folder above.
    name = f"test_{PurePosixPath(path).name}"
    is_named = file.name == name or file.name.startswith("test_recorded")
    return folder in file.parents or (is_named and file.parent == folder.parent)


class NearbyTests:
    """The test files of a repository, and what they import.

    Args:
        root: of the repository.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        paths = [
            path
            for folder in (PACKAGE, "tests")
            for path in sorted((root / folder).rglob("*.py"))
            if "standin" not in path.parts
        ]
        self._files = {path.relative_to(root).as_posix() for path in paths}
        self._imports = {name: sorted(self._imported_by(name)) for name in self._files}

    def nearest(self, path: str) -> list[str]:
        """Return the test files that may notice a change of a file, nearest first."""
        folder = PurePosixPath("tests", *PurePosixPath(path).parts[1:-1])
        name = f"test_{PurePosixPath(path).name}"
        mirrored = (folder / name).as_posix()
        room = (PurePosixPath("tests") / room_of(path)).as_posix() if room_of(path) else ""
        # Other tests of the folder may start the file as a program of its own.
        farthest = {
            test: _FARTHEST + 1
            for test in self._files
            if PurePosixPath(test).parent == folder and PurePosixPath(test).name.startswith("test_")
        }
        words = set(PurePosixPath(path).stem.split("_"))
        ranked: list[tuple[int, tuple[int, int], str]] = []
        for test, distance in (farthest | self._distances(path)).items():
            own = is_own(path, test)
            if not own and test.startswith(tuple(f"{each}/" for each in _OWN_ONLY)):
                continue
            in_room = bool(room) and test.startswith(f"{room}/")
            if distance <= _FARTHEST or own:
                other_words = -len(words & set(PurePosixPath(test).stem.split("_")))
                if own or in_room:
                    ranked.append((0 if own else 1, (other_words, distance), test))
                else:
                    ranked.append((2, (distance, other_words), test))
        found = [test for *_, test in sorted(ranked) if test != mirrored]
        return [mirrored, *found] if mirrored in self._files else found

    def _distances(self, path: str) -> dict[str, int]:
        """Return the number of imports between each test file and a file."""
        importers: dict[str, list[str]] = {}
        for importer, imported in self._imports.items():
            for each in imported:
                importers.setdefault(each, []).append(importer)
        distances, queue = {path: 0}, deque([path])
        while queue:
            name = queue.popleft()
            for importer in sorted(importers.get(name, ())):
                if importer not in distances:
                    # A package that only passes a name on is no step.
                    step = 0 if importer.endswith("/__init__.py") else 1
                    distances[importer] = distances[name] + step
                    (queue.append if step else queue.appendleft)(importer)
        return {
            name: distance
            for name, distance in distances.items()
            if PurePosixPath(name).name.startswith("test_") and name.startswith("tests/")
        }

    def _imported_by(self, name: str) -> Iterator[str]:
        for module in _modules(ast.parse((self._root / name).read_text("utf-8"))):
            inner = module.replace(".", "/")
            yield from {f"{inner}.py", f"{inner}/__init__.py"} & self._files
            if module == "importlib" and name.endswith("/__init__.py"):  # its modules, by name
                folder = str(PurePosixPath(name).parent)
                yield from (
                    each for each in self._files if str(PurePosixPath(each).parent) == folder
                )


def _modules(tree: ast.Module) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
