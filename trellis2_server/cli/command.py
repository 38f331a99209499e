"""The server's command: arguments, configuration, and which of its tasks to do.

Does not know: how any of them is done.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trellis2_server import __version__
from trellis2_server.api import api_keys
from trellis2_server.errors import ServerError
from trellis2_server.settings import load_settings, with_secrets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trellis2_server.cli.serve import ChooseEngine
    from trellis2_server.settings import Settings

#: What a shell reports of a command that Ctrl-C ended.
EXIT_INTERRUPTED: Final = 130
DEFAULT_CONFIG: Final = "api_server_config_default.json"


def main(
    arguments: Sequence[str] | None = None,
    *,
    config_folder: Path | None = None,
    choose_engine: ChooseEngine | None = None,
) -> int:
    """Do what the command line says; return the exit code.

    Args:
        arguments: without the program's name; None: those of the process.
        config_folder: folder of the default configuration file. None: the current folder, and if
            it has none, the built-in defaults, which are the same.
        choose_engine: returns the engine to serve with, and warnings; None: as configured.
    """
    parsed = _parse(arguments, config_folder)
    try:
        settings = _settings(parsed)
        if parsed.check:
            from trellis2_server.cli.check import check

            return check(settings, parsed.config)
        if parsed.prefetch:
            from trellis2_server.cli.prefetch import prefetch

            return prefetch(settings.model)
        if parsed.image is not None:
            from trellis2_server.cli.image import make_models

            return make_models(settings, parsed.image, parsed.output)
        from trellis2_server.cli.serve import serve

        return serve(settings, lambda: _settings(parsed), choose_engine)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the answer to a command
        return 2
    except KeyboardInterrupt:  # a server that has started handles the signal itself
        begin = "\r" if sys.stderr.isatty() else ""  # overwrites the terminal's own ^C
        print(f"{begin}interrupted", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED


def _parse(arguments: Sequence[str] | None, config_folder: Path | None) -> argparse.Namespace:
    if config_folder is not None:
        program, place = "api_server_trellis2.py", "beside the server"
        config: Path | None = config_folder / DEFAULT_CONFIG
    else:
        program, place = "trellis2-server", "in the current folder, otherwise built-in defaults"
        config = Path(DEFAULT_CONFIG) if Path(DEFAULT_CONFIG).is_file() else None
    parser = argparse.ArgumentParser(
        prog=program, description="HTTP server for TRELLIS.2: one picture in, two GLBs out."
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=config,
        metavar="FILE",
        help=f"configuration file (default: {DEFAULT_CONFIG} {place})",
    )
    parser.add_argument(
        "--host",
        type=lambda text: text.split(","),
        metavar="ADDRESS,…",
        help="addresses to listen on, separated by commas; override server.host",
    )
    parser.add_argument("--port", type=int, help="TCP port; overrides server.port")
    parser.add_argument(
        "--check", action="store_true", help="check the configuration and the engine, and exit"
    )
    parser.add_argument(
        "--prefetch", action="store_true", help="fetch the background model, and exit"
    )
    parser.add_argument(
        "--image", type=Path, metavar="PICTURE", help="make the models of one picture, and exit"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("out"),
        metavar="FOLDER",
        help="folder for the models of --image (default: out)",
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser.parse_args(arguments)


def _settings(parsed: argparse.Namespace) -> Settings:
    overrides = {"host": parsed.host, "port": parsed.port}
    server = {key: value for key, value in overrides.items() if value is not None}
    settings = load_settings(
        parsed.config,
        {"server": server} if server else None,
        override_names={f"server.{key}": f"--{key}" for key in server},
    )
    return with_secrets(api_keys.with_all_keys(settings, os.environ), os.environ)
