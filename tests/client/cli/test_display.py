"""Progress bars."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from trellis2_server.client.cli.display import choose_display
from trellis2_server.client.progress import Progress


def test_a_long_name_with_braces_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    shown = choose_display(is_quiet=False)
    row = shown.row("{0}" + "x" * 40 + ".png")
    row.show(Progress(0.5, "shape", eta_s=12.3))
    row.show(Progress(0.5, "wrong", is_trouble=True))
    row.show(Progress(0.5, "wrong", is_trouble=True))
    row.end()
    drawn = screen.getvalue()
    assert drawn.count(": wrong") == 1
    assert "…" in drawn
    assert " 50% |" in drawn


class Bar:
    """What is asked of a bar of tqdm."""

    made: list[Bar]

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.n = 0.0
        self.texts: list[str] = []
        self.is_closed = False
        Bar.made.append(self)

    def set_description_str(self, text: str) -> None:
        self.texts.append(text)

    def close(self) -> None:
        self.is_closed = True

    @staticmethod
    def write(line: str, file: Any) -> None:
        print(line, file=file)


def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error, a terminal; for the call of a test: pytest sets it anew before."""
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("tqdm.tqdm", Bar)
    Bar.made = []
    return screen


def test_a_bar_shows_the_fraction_and_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal(monkeypatch)
    row = choose_display(is_quiet=False).row("one.png")
    for eta_s in (None, 0.9, 1.0, 12.6):
        row.show(Progress(0.25, "shape", eta_s=eta_s))
    (bar,) = Bar.made
    assert bar.n == 0.25
    assert bar.texts == ["shape", "shape", "shape, 1 s left", "shape, 13 s left"]
    assert (bar.arguments["total"], bar.arguments["leave"]) == (1.0, False)
    row.show(Progress(0.25, "x" * 45))
    assert bar.texts[-1] == "x" * 44
    assert not bar.is_closed
    row.end()
    assert bar.is_closed


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a", "a" + " " * 23),
        ("x" * 24, "x" * 24),
        ("y" + "x" * 24, "…" + "x" * 23),
        ("{a}", "{{a}}" + " " * 21),
    ],
)
def test_a_name_has_24_columns(monkeypatch: pytest.MonkeyPatch, name: str, shown: str) -> None:
    terminal(monkeypatch)
    choose_display(is_quiet=False).row(name)
    assert (
        Bar.made[0].arguments["bar_format"] == f"{shown} {{percentage:3.0f}}% |{{bar:24}}| {{desc}}"
    )


def test_a_problem_is_written_once_until_it_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = terminal(monkeypatch)
    row = choose_display(is_quiet=False).row("one")
    for text in ("lost", "lost", "busy", "lost"):
        row.show(Progress(0.0, text, is_trouble=True))
    row.show(Progress(0.0, "shape"))
    assert screen.getvalue() == "one: lost\none: busy\none: lost\n"


@pytest.mark.parametrize("kind", ["bars", "lines", "quiet"])
def test_a_line_is_written_where_it_is_meant_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    screen = terminal(monkeypatch)
    screen.isatty = lambda: kind != "lines"  # type: ignore[method-assign]
    display = choose_display(is_quiet=kind == "quiet")
    display.write("note")
    display.write("path", sys.stdout)
    assert (screen.getvalue(), capsys.readouterr().out) == ("note\n", "path\n")
    assert not Bar.made


def test_without_a_terminal_a_line_is_written_for_each_change(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    row = choose_display(is_quiet=False).row("one")
    row.show(Progress(0.1, "shape: decode 1 of 2"))
    row.show(Progress(0.2, "shape: decode 2 of 2"))
    row.show(Progress(0.2, "http://x: lost", is_trouble=True))
    row.show(Progress(0.5, "texture"))
    row.end()
    assert capsys.readouterr().err == "one: shape\none: http://x: lost\none: texture\n"
    quiet = choose_display(is_quiet=True).row("one")
    quiet.show(Progress(0.1, "shape"))
    quiet.end()
    assert capsys.readouterr().err == ""
