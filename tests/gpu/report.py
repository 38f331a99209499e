"""`Report`: the rows of all parts, on the disk after each of them.

Each file is replaced as a whole, so that a reader, or whoever looks after this process was
killed, finds all rows until then.

Does not know: what is measured, how tables look.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final, Literal

from tests.gpu.tables import document

if TYPE_CHECKING:
    from pathlib import Path

    from tests.gpu.part import Part

#: `running` stays where this process was killed in the middle of a part.
State = Literal["running", "done", "failed", "cut off", "missing", "no time", "not started"]
_SHOWN_DIGITS: Final = 6


class Report:
    """Rows, and what is known of the device.

    Args:
        about: device, versions, options.
        json_file: all rows; None: not written.
        markdown_file: the tables; None: not written.

    Attributes:
        data: `about`, and for each part its `state`, `why`, `seconds`, `rows`.
    """

    def __init__(
        self, about: dict[str, Any], json_file: Path | None, markdown_file: Path | None
    ) -> None:
        self.data: dict[str, Any] = {"about": about, "parts": {}}
        self._json_file = json_file
        self._markdown_file = markdown_file

    def add_about(self, more: dict[str, Any]) -> None:
        """Add what a part found out about the machine."""
        self.data["about"] |= more
        self.save()

    def begin(self, part: Part, estimate_s: float) -> None:
        """Begin the rows of a part."""
        self.data["parts"][part.name] = {
            "title": part.title,
            "state": "running",
            "estimate_s": round(estimate_s, 1),
            "rows": [],
        }
        self.save()

    def add_row(self, part: Part, row: dict[str, Any]) -> None:
        """Add a row to a part that runs; print it."""
        rounded = {k: _rounded(v) for k, v in row.items()}
        self.data["parts"][part.name]["rows"].append(rounded)
        print(json.dumps({"part": part.name, **rounded}), flush=True)
        self.save()

    def end(self, part: Part, state: State, seconds: float = 0.0, why: str = "") -> None:
        """End a part, or say why it was not begun."""
        entry = self.data["parts"].setdefault(part.name, {"title": part.title, "rows": []})
        entry |= {"state": state, "seconds": round(seconds, 1)}
        if why:
            entry["why"] = why
        print(json.dumps({"part": part.name, **{k: entry[k] for k in entry if k != "rows"}}))
        self.save()

    def save(self) -> None:
        """Replace the files."""
        _replace(self._json_file, json.dumps(self.data, indent=1))
        _replace(self._markdown_file, document(self.data))


def _replace(file: Path | None, text: str) -> None:
    if file is None:
        return
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_text(text, "utf-8")
    beside.replace(file)


def _rounded(value: Any) -> Any:
    return float(f"{value:.{_SHOWN_DIGITS}g}") if isinstance(value, float) else value
