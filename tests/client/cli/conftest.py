from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.server import Server, picture
from trellis2_server.client import cli
from trellis2_server.client.cli import batch

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., tuple[int, str, str]]

SMALL = ("--texture-size", "256", "--decimation-target", "2000")


@pytest.fixture(autouse=True)
def no_first_contact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "FIRST_CONTACT_S", 0.0)


@pytest.fixture
def run(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs the command line in a new folder with two pictures; exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRELLIS2_SERVER", server.url)
    Path("one.png").write_bytes(picture(1))
    Path("two.png").write_bytes(picture(2))

    def main(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main([*SMALL, *map(str, arguments)])
        except SystemExit as exited:  # by argparse
            code = int(str(exited.code))
        return code, *capsys.readouterr()

    return main
