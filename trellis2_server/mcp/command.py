"""Command line of the MCP server.

Does not know: the tools.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trellis2_server import __version__
from trellis2_server.client import ClientError
from trellis2_server.client.connection import DEFAULT_SERVER, KEY_VARIABLE, SERVER_VARIABLE
from trellis2_server.mcp.files import FileAccess
from trellis2_server.mcp.remote_files import RemoteFiles

if TYPE_CHECKING:
    from collections.abc import Sequence

INSTALL: Final = "pip install 'mcp>=1.10,<2'"
_USAGE_ERROR: Final = 2
_MAX_PORT: Final = 65_535
_EPILOG: Final = f"""\
Over stdio, the process belongs to the agent's user: tools read every picture and mesh that this
user can read, and write into --output. Over http, they read only inside of --files, and write only
into --output, where these are set. There is no authentication over http: listen on this machine
only, or put a proxy that authenticates before it.

environment variables:
  {SERVER_VARIABLE}           address of the server, if --server is omitted
  {KEY_VARIABLE}   API key, if --api-key-file is omitted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the MCP server until its client leaves; return the exit code.

    Args:
        arguments: arguments without the program's name; None: those of the process.

    Raises:
        SystemExit: argparse has printed the help, or an error in the arguments.
    """
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        access, api_key = _access(parsed), _key(parsed.api_key_file)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        from trellis2_server.mcp.tools import make_server
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "mcp":
            raise
        return _fail(f"the package mcp is not installed: {INSTALL}")
    try:
        server = make_server(parsed.server, api_key, access, host=parsed.host, port=parsed.port)
    except ClientError as error:
        return _fail(str(error))
    transport = "stdio" if parsed.transport == "stdio" else "streamable-http"
    server.run(transport)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trellis2_server.mcp",
        description="Offer a TRELLIS.2 server's models to agents as MCP tools.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--server", metavar="URL", help=f"address (default: {DEFAULT_SERVER})")
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="file with the API key, its first line"
    )
    parser.add_argument(
        "--transport", choices=("stdio", "http"), default="stdio", help="default: stdio"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address of http (127.0.0.1)")
    parser.add_argument("--port", type=_port, default=8083, help="port of http (8083)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder for exported models (stdio: the current one; http: none)",
    )
    parser.add_argument(
        "--files", type=Path, metavar="FOLDER", help="read files of this folder only"
    )
    parser.add_argument(
        "--allow-private-urls",
        action="store_true",
        help="also fetch pictures from addresses of this machine and of private networks",
    )
    return parser


def _port(text: str) -> int:
    if text.isdecimal() and 0 < int(text) <= _MAX_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be 1 to {_MAX_PORT}")


def _access(parsed: argparse.Namespace) -> FileAccess:
    is_local = parsed.transport == "stdio"
    output: Path | None = parsed.output or (Path.cwd() if is_local else None)
    for name, folder in (("--output", parsed.output), ("--files", parsed.files)):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{name}: {folder} is not a folder")
    return FileAccess(
        RemoteFiles(allows_private=parsed.allow_private_urls),
        reads_all=is_local and parsed.files is None,
        folder=parsed.files,
        output=output,
    )


def _key(file: Path | None) -> str | None:
    """Return the API key of a file.

    Raises:
        ValueError: the file is empty, or cannot be read.
    """
    if file is None:
        return None
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"--api-key-file: {file} cannot be read: {error.strerror}") from error
    key = next((line.strip() for line in lines if line.strip()), None)
    if key is None:
        raise ValueError(f"--api-key-file: {file} holds no key")
    return key


def _fail(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)  # noqa: T201 - output of a command
    # Nothing is left that could print into the protocol.
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - until the end
    return _USAGE_ERROR
