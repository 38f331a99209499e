"""What a person or a log sees of pictures in progress.

On a terminal a bar for each picture that is being made, and finished ones above; otherwise
one line for what matters, without control characters. All of it goes to standard error.

What this module does not know: servers, files.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

if TYPE_CHECKING:
    from trellis2_server.client.progress import Progress

_TEXT_WIDTH: Final = 44
_NAME_WIDTH: Final = 24


class Row(Protocol):
    """One picture's."""

    def show(self, progress: Progress) -> None:
        """Show how far it is."""
        ...

    def end(self) -> None:
        """Show it no more."""
        ...


class Display(Protocol):
    """Where it is shown."""

    def row(self, name: str) -> Row:
        """A place for a picture of that name."""
        ...

    def write(self, line: str, file: TextIO | None = None) -> None:
        """A line that stays, on standard error or in that file."""
        ...


def choose_display(*, quiet: bool) -> Display:
    """Bars where standard error is a terminal, lines elsewhere, neither when quiet."""
    if quiet:
        return _Silence()
    return _Bars() if sys.stderr.isatty() else _Lines()


class _Silence:
    def row(self, name: str) -> Row:
        del name
        return self

    def show(self, progress: Progress) -> None:
        pass

    def end(self) -> None:
        pass

    def write(self, line: str, file: TextIO | None = None) -> None:
        print(line, file=file or sys.stderr, flush=True)


class _Lines:
    def row(self, name: str) -> Row:
        return _LineRow(self, name)

    def write(self, line: str, file: TextIO | None = None) -> None:
        print(line, file=file or sys.stderr, flush=True)


class _LineRow:
    """Says what is new: the step, the place in the queue, trouble."""

    def __init__(self, lines: _Lines, name: str) -> None:
        self._lines = lines
        self._name = name
        self._last = ""

    def show(self, progress: Progress) -> None:
        said = progress.text
        if not progress.is_trouble:
            said = said.partition(":")[0]
        if said != self._last:
            self._last = said
            self._lines.write(f"{self._name}: {said}")

    def end(self) -> None:
        pass


class _Bars:
    def __init__(self) -> None:
        from tqdm import tqdm

        self.make: Any = tqdm

    def row(self, name: str) -> Row:
        return _BarRow(self, name)

    def write(self, line: str, file: TextIO | None = None) -> None:
        self.make.write(line, file=file or sys.stderr)
        (file or sys.stderr).flush()


class _BarRow:
    def __init__(self, bars: _Bars, name: str) -> None:
        self._bars = bars
        self._name = name
        self._trouble = ""
        shown = name if len(name) <= _NAME_WIDTH else f"…{name[1 - _NAME_WIDTH :]}"
        shown = f"{shown:{_NAME_WIDTH}}".replace("{", "{{").replace("}", "}}")
        self._bar: Any = bars.make(
            total=1.0,
            bar_format=f"{shown} {{percentage:3.0f}}% |{{bar:24}}| {{desc}}",
            leave=False,
            dynamic_ncols=True,
            mininterval=0.1,
            file=sys.stderr,
        )

    def show(self, progress: Progress) -> None:
        if progress.is_trouble and progress.text != self._trouble:
            self._trouble = progress.text
            self._bars.write(f"{self._name}: {progress.text}")
        text = progress.text
        if progress.eta_s is not None and progress.eta_s >= 1:
            text = f"{text}, {progress.eta_s:.0f} s left"
        self._bar.n = progress.fraction
        self._bar.set_description_str(text[:_TEXT_WIDTH])

    def end(self) -> None:
        self._bar.close()
