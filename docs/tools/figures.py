"""Files of measured figures in `docs/measured`, and tables that name them.

Does not know: Markdown files, which figures a page shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER: Final = Path(__file__).resolve().parents[1] / "measured"

Row = dict[str, Any]


def rows(run: str, part: str, table: str) -> list[Row]:
    """Return the rows of a table of `tests/gpu/run.py`.

    Args:
        run: name of the file, without the suffix.
        part: of the measurement.
        table: its title, or how that begins.

    Raises:
        LookupError: there is none.
    """
    written = _read(run)["parts"][part]["rows"]
    return _found([row for row in written if row["table"].startswith(table)], run, table, part)


def recorded(run: str, table: str) -> list[Row]:
    """Return the rows of a table that a benchmark recorded: see `bench/record.py`.

    Args:
        run: name of the file, without the suffix.
        table: its name.

    Raises:
        LookupError: there is none.
    """
    return _found([row for row in _read(run)["rows"] if row["table"] == table], run, table)


def argument(run: str, name: str) -> Any:
    """Return an argument of the command line of a benchmark."""
    return _read(run)["arguments"][name]


def markdown(head: Sequence[str], body: Sequence[Sequence[str]], *runs: str) -> str:
    """Return a table, and a line that names the files of its runs."""
    lines = [head, ["---"] * len(head), *body]
    files = ", ".join(f"`docs/measured/{run}.json`" for run in runs)
    about = "".join(dict.fromkeys(map(_about, runs)))
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", f"From {files}{about}."])


def _about(run: str) -> str:
    """Return what measured, and what was measured."""
    written = _read(run)
    if "machine" not in written:  # of tests/gpu/run.py, whose tables name the card
        return ""
    states = [(written, ""), (written.get("against"), "against ")]
    commits = [f"{word}{_commit(state)}" for state, word in states if state]
    machine = written["machine"]
    by = f"{machine['cores']} cores of {machine['processor']}"
    return f": `bench/{written['bench']}`, {' '.join(commits)}, {by}"


def _commit(state: Row) -> str:
    changed = " with changes" if state["is_dirty"] else ""
    return f"commit {state['commit'][:7]}{changed}" if state["commit"] else "no commit"


def _read(run: str) -> Row:
    return json.loads((FOLDER / f"{run}.json").read_text(encoding="utf-8"))


def _found(found: list[Row], run: str, table: str, part: str = "") -> list[Row]:
    if not found:
        raise LookupError(f"{run}: {part and f'the part {part!r} has '}no table {table!r}")
    return found
