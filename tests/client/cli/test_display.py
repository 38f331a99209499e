"""Progress bars."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from trellis2_server.client.cli.display import choose_display
from trellis2_server.client.progress import Progress

if TYPE_CHECKING:
    import pytest


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
