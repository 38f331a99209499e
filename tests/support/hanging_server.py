"""The server's command line, with an engine that hangs in its first stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.engines import GatedEngine
from trellis2_server import cli

if TYPE_CHECKING:
    from trellis2_server.settings import Settings


def hanging(_: Settings) -> tuple[GatedEngine, tuple[str, ...]]:
    return GatedEngine("shape"), ()


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    raise SystemExit(cli.main(config_folder=here, choose_engine=hanging))
