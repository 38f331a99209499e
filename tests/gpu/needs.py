"""What this Python lacks for a part, and how to install it.

Imports none of the packages. A requirement of an installed package counts too: a package that
was copied without its dependencies cannot be imported.

Does not know: what a part does with a package.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.gpu.part import SERVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.gpu.part import Part

#: Name as it is imported → name on the package index, where the two differ.
_ON_THE_INDEX: Final = {
    "PIL": "pillow",
    "huggingface_hub": "huggingface-hub",
    "prometheus_client": "prometheus-client",
    "python_multipart": "python-multipart",
}
#: Packages whose requirements are not followed: an image may have them without metadata.
_COMPLETE: Final = frozenset({"torch", "transformers", "numba", "huggingface-hub", "numpy"})
#: TRELLIS.2's code, which is on no package index.
UPSTREAM: Final = "trellis2"
CLONE: Final = (
    "git clone https://github.com/microsoft/TRELLIS.2 && export TRELLIS2_HOME=$PWD/TRELLIS.2"
)


def missing(packages: Iterable[str]) -> list[str]:
    """Return what is absent: names on the package index, and `trellis2` for TRELLIS.2's code."""
    absent: dict[str, None] = {}
    for package in packages:
        if package == UPSTREAM:
            if not _has_upstream():
                absent[UPSTREAM] = None
        elif not _is_importable(package):
            absent[_ON_THE_INDEX.get(package, package)] = None
        else:
            absent |= dict.fromkeys(_missing_requirements(_ON_THE_INDEX.get(package, package)))
    return list(absent)


def report(parts: Sequence[Part]) -> tuple[str, bool]:
    """Return a text on what each part lacks, and whether nothing is absent."""
    lines: list[str] = []
    absent: dict[str, None] = {}
    for part in parts:
        lacks = missing(part.packages)
        lines.append(_line(part.name, lacks))
        absent |= dict.fromkeys(lacks)
        if part.name == "tests":
            lacks = missing((*part.packages, *SERVER))
            lines.append(_line("tests, HTTP", lacks))
            absent |= dict.fromkeys(lacks)
    from_index = [name for name in absent if name != UPSTREAM]
    if from_index:
        lines.append(f"\npython -m pip install {' '.join(from_index)}")
    if UPSTREAM in absent:
        lines.append(CLONE)
    return "\n".join(lines), not absent


def _line(name: str, lacks: Sequence[str]) -> str:
    return f"{name:13} {'lacks ' + ', '.join(lacks) if lacks else 'has everything'}"


def _has_upstream() -> bool:
    home = os.environ.get("TRELLIS2_HOME")
    if home:
        return (Path(home).expanduser() / "trellis2" / "pipelines" / "__init__.py").is_file()
    return _is_importable(UPSTREAM)


def _is_importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _missing_requirements(name: str) -> list[str]:
    """Requirements of an installed package, and theirs, that are not installed."""
    absent: list[str] = []
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        found = waiting.pop()
        if found in seen or found in _COMPLETE:
            continue
        seen.add(found)
        try:
            requirements = importlib.metadata.requires(found) or []
        except importlib.metadata.PackageNotFoundError:
            if found != name:
                absent.append(found)
            continue
        waiting += [required for line in requirements if (required := _required(line))]
    return sorted(absent)


def _required(line: str) -> str | None:
    """Name in a line of a package's metadata; None where it does not apply here.

    A marker other than an extra is evaluated where `packaging` is installed, otherwise the
    requirement is left out: those are of other systems and of earlier versions of Python.
    """
    text, _, marker = line.partition(";")
    if "extra" in marker:
        return None
    if marker.strip():
        try:
            from packaging.markers import Marker
        except ImportError:
            return None
        if not Marker(marker.strip()).evaluate():
            return None
    found = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", text)
    return found[1] if found else None
