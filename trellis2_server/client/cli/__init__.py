"""Command line of the client: pictures in, files out."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from trellis2_server.client.cli.arguments import read_command
from trellis2_server.client.cli.batch import run_batch
from trellis2_server.client.cli.exit_codes import ExitCode
from trellis2_server.client.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None, *, program: str | None = None) -> int:
    """Run the command line; return the exit code.

    Args:
        arguments: arguments without the program's name; None: those of the process.
        program: name that the usage line shows; None: the name of the process.

    Raises:
        SystemExit: argparse has printed the help, or an error in the arguments.
    """
    try:
        return asyncio.run(run_batch(read_command(arguments, program=program)))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - output of a command
        return ExitCode.USAGE
    except KeyboardInterrupt:
        begin = "\r" if sys.stderr.isatty() else ""  # overwrites the terminal's own ^C
        print(f"{begin}interrupted; jobs in progress are cancelled", file=sys.stderr)  # noqa: T201
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of standard output has exited. Redirecting it keeps the interpreter from
        # reporting the same error again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.NOT_WRITTEN
