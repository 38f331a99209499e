"""Showing the progress of jobs on standard error.

A terminal shows a bar for each job in progress, below the lines of finished jobs. Anything else
gets a line for each important change, without control characters.

Does not know: servers, files.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

if TYPE_CHECKING:
    from trellis2_server.client.progress import Progress

_TEXT_WIDTH: Final = 44
_NAME_WIDTH: Final = 24


class Row(Protocol):
    """Progress of one job."""

    def show(self, progress: Progress) -> None:
        """Show the progress."""
        ...

    def end(self) -> None:
        """Remove the row."""
        ...


class Display(Protocol):
    """Progress of all jobs."""

    def row(self, name: str) -> Row:
        """Add a row for a job."""
        ...

    def write(self, line: str, file: TextIO | None = None) -> None:
        """Write a permanent line to a file, by default to standard error."""
        ...


def choose_display(*, is_quiet: bool) -> Display:
    """Return bars if standard error is a terminal, lines otherwise, neither if quiet."""
    if is_quiet:
        return _QuietDisplay()
    return _BarDisplay() if sys.stderr.isatty() else _LineDisplay()


class _QuietDisplay:
    def row(self, name: str) -> Row:
        del name
        return self

    def show(self, progress: Progress) -> None:
        pass

    def end(self) -> None:
        pass

    def write(self, line: str, file: TextIO | None = None) -> None:
        print(line, file=file or sys.stderr, flush=True)


class _LineDisplay:
    def row(self, name: str) -> Row:
        return _LineRow(self, name)

    def write(self, line: str, file: TextIO | None = None) -> None:
        print(line, file=file or sys.stderr, flush=True)


class _LineRow:
    """Writes a line when the step, the position in the queue or the problem changes."""

    def __init__(self, display: _LineDisplay, name: str) -> None:
        self._display = display
        self._name = name
        self._last_text = ""

    def show(self, progress: Progress) -> None:
        text = progress.text
        if not progress.is_trouble:
            text = text.partition(":")[0]
        if text != self._last_text:
            self._last_text = text
            self._display.write(f"{self._name}: {text}")

    def end(self) -> None:
        pass


class _BarDisplay:
    def __init__(self) -> None:
        from tqdm import tqdm

        self.tqdm: Any = tqdm

    def row(self, name: str) -> Row:
        return _BarRow(self, name)

    def write(self, line: str, file: TextIO | None = None) -> None:
        self.tqdm.write(line, file=file or sys.stderr)
        (file or sys.stderr).flush()


class _BarRow:
    def __init__(self, display: _BarDisplay, name: str) -> None:
        self._display = display
        self._name = name
        self._problem = ""
        shown = name if len(name) <= _NAME_WIDTH else f"…{name[1 - _NAME_WIDTH :]}"
        shown = f"{shown:{_NAME_WIDTH}}".replace("{", "{{").replace("}", "}}")
        self._bar: Any = display.tqdm(
            total=1.0,
            bar_format=f"{shown} {{percentage:3.0f}}% |{{bar:24}}| {{desc}}",
            leave=False,
            dynamic_ncols=True,
            mininterval=0.1,
            file=sys.stderr,
        )

    def show(self, progress: Progress) -> None:
        if progress.is_trouble and progress.text != self._problem:
            self._problem = progress.text
            self._display.write(f"{self._name}: {progress.text}")
        text = progress.text
        if progress.eta_s is not None and progress.eta_s >= 1:
            text = f"{text}, {progress.eta_s:.0f} s left"
        self._bar.n = progress.fraction
        self._bar.set_description_str(text[:_TEXT_WIDTH])

    def end(self) -> None:
        self._bar.close()
