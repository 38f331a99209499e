"""Exit codes of the command line, and the errors that cause them."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from trellis2_server.client.errors import BusyError, UnauthorizedError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trellis2_server.client.errors import ClientError


class ExitCode(IntEnum):
    """Exit codes; the help text explains each of them."""

    DONE = 0
    SOME_FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    UNAUTHORIZED = 4
    NOT_WRITTEN = 5
    INTERRUPTED = 130


def code_of(error: ClientError | OSError | None) -> ExitCode:
    """Return the exit code for the error of one job; None: the job is done."""
    if error is None:
        return ExitCode.DONE
    if isinstance(error, OSError):
        return ExitCode.NOT_WRITTEN
    if isinstance(error, UnreachableError | BusyError):
        return ExitCode.UNREACHABLE
    return ExitCode.UNAUTHORIZED if isinstance(error, UnauthorizedError) else ExitCode.SOME_FAILED


def combine(codes: Iterable[ExitCode]) -> ExitCode:
    """Return the exit code of several jobs: the failed ones', if all of these have the same."""
    failed = set(codes) - {ExitCode.DONE}
    if not failed:
        return ExitCode.DONE
    return failed.pop() if len(failed) == 1 else ExitCode.SOME_FAILED
