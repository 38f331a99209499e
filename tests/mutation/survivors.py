"""The list of mutants that no test notices, with a reason each.

`survivors.toml` has a table for each: `file`, `function`, `before` and `after` (the changed lines,
as `Mutant` has them) and `reason`, which starts with one of `REASONS`. Line numbers are left out,
so that an entry outlives changes above it.

Does not know: how mutants are made and run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings the same reader
    import tomli as tomllib

if TYPE_CHECKING:
    from tests.mutation.operators import Mutant

PATH: Final = Path(__file__).with_name("survivors.toml")
#: What makes a mutant no bug that a test has to notice.
REASONS: Final = ("equivalent: ", "performance only: ", "log text: ")


def read(path: Path = PATH) -> list[dict[str, Any]]:
    """Return the entries, in their order."""
    return tomllib.loads(path.read_text("utf-8")).get("survivor", [])


def key(entry: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return what makes an entry and a mutant the same."""
    return entry["file"], entry["function"], entry["before"], entry["after"]


def key_of(mutant: Mutant) -> tuple[str, str, str, str]:
    """Return `key` of the entry that a mutant would have."""
    return mutant.path, mutant.function, mutant.before, mutant.after


def reasons(path: Path = PATH) -> dict[tuple[str, str, str, str], str]:
    """Return the reasons by `key`."""
    return {key(entry): entry["reason"] for entry in read(path)}
