"""The report as a Markdown document: a table for each kind of row, and what failed.

Does not know: how rows are measured, files.
"""

from __future__ import annotations

from typing import Any

from tests.gpu.thresholds import checks, failures


def document(report: dict[str, Any]) -> str:
    """All measurements, as far as they are there."""
    about = report["about"]
    name = about.get("device_name") or about.get("device", "?")
    text = f"# TRELLIS.2 on {name}\n\n" + _introduction(about)
    text += "\n" + _table(["about", "value"], [[k, _text(v)] for k, v in about.items()])
    text += "\n## What must be reached\n\n" + _table(
        ["what", "row", "limit", "measured", "result"],
        [
            [
                check.threshold.what,
                check.row,
                f"{check.threshold.most:g} {check.threshold.unit}",
                "" if check.value is None else f"{check.value:.2f} {check.threshold.unit}",
                check.verdict,
            ]
            for check in checks(report)
        ],
    )
    text += "\n## Parts\n\n" + _table(
        ["part", "state", "seconds", "estimate, s", "why"],
        [
            [
                name,
                part["state"],
                _text(part.get("seconds", "")),
                _text(part.get("estimate_s", "")),
                _text(part.get("why", "")),
            ]
            for name, part in report["parts"].items()
        ],
    )
    found = failures(report)
    text += "\n## What failed\n\n"
    text += "\n".join(f"- {_text(line)}" for line in found) if found else "Nothing failed."
    text += "\n"
    for name, part in report["parts"].items():
        if part["rows"]:
            text += f"\n## `{name}`: {part['title']}\n" + _tables_of(part["rows"])
    return text


def _introduction(about: dict[str, Any]) -> str:
    return (
        "By `tests/gpu/run.py`. The models had **random weights**"
        + (" and were **tiny**" if about.get("size") == "tiny" else "")
        + ": times and memory are those of the given numbers of tokens and voxels, not of a "
        "picture. Nothing here is known about the real weights.\n"
    )


def _tables_of(rows: list[dict[str, Any]]) -> str:
    """A table for each value of `table`, with the columns that its rows have."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row.get("table", "")), []).append(row)
    text = ""
    for title, group in groups.items():
        columns = list(dict.fromkeys(key for row in group for key in row if key != "table"))
        text += f"\n{title}\n\n" if title else "\n"
        text += _table(
            columns, [[_text(row.get(column, "")) for column in columns] for row in group]
        )
    return text


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    return " ".join(str(value).split()).replace("|", "\\|")


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
