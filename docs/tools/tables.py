"""Tables in Markdown files: settings and request fields, by their declarations; measured figures.

    python docs/tools/tables.py                        # rewrites stale tables in README.md, docs/
    python docs/tools/tables.py --check                # names stale files; exit code 1 if any
    python docs/tools/tables.py --print parameters     # prints one table
    python docs/tools/tables.py docs/configuration.md  # other files

A file has a table between `<!-- settings -->` and `<!-- /settings -->`, between
`<!-- parameters -->` and `<!-- /parameters -->`, or `purposes`; the tables of `measured` have such
names, too.
"""

from __future__ import annotations

import argparse
import re
import sys
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from docs.tools import measured  # noqa: E402
from trellis2_server.purposes import PURPOSES  # noqa: E402
from trellis2_server.request_fields import FIELDS, Group, RequestField  # noqa: E402
from trellis2_server.settings import Settings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pydantic.fields import FieldInfo

_SETTINGS_HEAD: Final = ("| key | default | allowed | meaning |", "|---|---|---|---|")
_PARAMETERS_HEAD: Final = (
    "| field | also as | values | default | meaning |",
    "|---|---|---|---|---|",
)


def settings_table() -> str:
    """Return the table of all settings."""
    rows: list[str] = [*_SETTINGS_HEAD]
    for name, section in Settings.model_fields.items():
        model: Any = section.annotation
        for key, setting in model.model_fields.items():
            cells = (f"`{name}.{key}`", _word(setting.default), _allowed(setting))
            rows.append(_row(*cells, setting.description))
    return "\n".join(rows)


def parameters_table() -> str:
    """Return the table of the fields of a request, in groups."""
    rows: list[str] = [*_PARAMETERS_HEAD]
    for group in typing.get_args(Group):
        for field in FIELDS:
            if field.group == group:
                cells = (f"`{field.name}`", _code(field.aliases), _values(field), _default(field))
                rows.append(_row(*cells, field.description))
    return "\n".join(rows)


def purposes_table() -> str:
    """Return the table of what models are for, and the fields that suit it."""
    rows = ["| for | fields |", "|---|---|"]
    for name, purpose in PURPOSES.items():
        fields = _code(f"{field}: {_word(value)}" for field, value in purpose.fields.items())
        rows.append(_row(f"`{name}`", fields))
    return "\n".join(rows)


TABLES: Final[dict[str, Callable[[], str]]] = {
    "settings": settings_table,
    "parameters": parameters_table,
    "purposes": purposes_table,
    **measured.TABLES,
}


def update(text: str) -> str:
    """Return a Markdown text with the tables between its markers as they should be.

    Raises:
        ValueError: a table has a beginning but no end, or the other way round.
    """
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if text.count(begin) != text.count(end):
            raise ValueError(f"{begin.strip()} and {end.strip()} are no pair")
        if begin in text:
            pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
            new = f"{begin}{table()}\n{end}"
            text = re.sub(pattern, lambda _, new=new: new, text, flags=re.DOTALL)
    return text


def stale(files: Iterable[Path]) -> list[Path]:
    """Return the files whose tables are not as they should be."""
    return [file for file in files if update(text := file.read_text(encoding="utf-8")) != text]


def documents() -> list[Path]:
    """Return the Markdown files that may have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


# ---- cells ---------------------------------------------------------------------------------


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _code(words: Iterable[object]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _word(value: object) -> str:
    """Return a value as JSON has it, but without quotes."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value) or "empty"


def _allowed(setting: FieldInfo) -> str:
    words = list(_choices(setting.annotation))
    limits = {type(rule).__name__: rule for rule in setting.metadata}
    low: Any = limits.get("Ge") or limits.get("Gt")
    high: Any = limits.get("Le")
    if low and high:
        least = f"over {low.gt:,}" if hasattr(low, "gt") else f"{low.ge:,}"
        words.append(f"{least} … {high.le:,}")
    return ", ".join(words)


def _choices(annotation: Any) -> Iterable[str]:
    if typing.get_origin(annotation) in {types.UnionType, typing.Union}:
        for part in typing.get_args(annotation):
            yield from _choices(part)
    elif typing.get_origin(annotation) is typing.Literal:
        yield from map(str, typing.get_args(annotation))
    elif annotation is bool:
        yield from ("true", "false")
    elif annotation is types.NoneType:
        yield "null"


def _values(field: RequestField) -> str:
    if field.kind == "boolean":
        return _code(("true", "false"))
    if field.kind == "interval":
        return "two numbers, 0 … 1"
    if field.bounds:
        low, high = field.bounds
        word = f"`{field.word}`, " if field.word else ""
        return ("two to eight of " if field.kind == "integers" else word) + f"{low:,} … {high:,}"
    return _code((*field.choices, *(["null"] if field.is_nullable else [])))


def _default(field: RequestField) -> str:
    if field.setting:
        return f"`{field.setting}`"
    if field.group == "sampler":
        return "the checkpoint's"
    return "" if field.default is None else f"`{_word(field.default)}`"


# ---- command line --------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="default: README.md and docs/*.md")
    parser.add_argument("--check", action="store_true", help="change nothing, name stale files")
    parser.add_argument("--print", choices=list(TABLES), dest="table", help="print one table")
    asked = parser.parse_args(arguments)
    if asked.table:
        print(TABLES[asked.table]())
        return 0
    found = stale(asked.files or documents())
    for file in found:
        if not asked.check:
            file.write_text(update(file.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"{file}: {'stale' if asked.check else 'updated'}")
    return int(asked.check and bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
