"""Exit codes of failed and combined jobs."""

from __future__ import annotations

import pytest

from trellis2_server.client import (
    BusyError,
    ClientError,
    JobFailedError,
    RefusedError,
    UnauthorizedError,
    UnreachableError,
)
from trellis2_server.client.cli.exit_codes import ExitCode, code_of, combine


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (JobFailedError("failed", uid="a"), 1),
        (RefusedError("too large", status=413), 1),
        (UnreachableError("refused"), 3),
        (BusyError("full", status=503), 3),
        (UnauthorizedError("no key", status=401), 4),
        (PermissionError("read-only"), 5),
    ],
)
def test_an_error_has_its_exit_code(error: ClientError | OSError | None, code: int) -> None:
    assert code_of(error) == code


def test_several_jobs_have_the_code_of_their_failures_if_it_is_the_same() -> None:
    done, failed, unreachable = ExitCode.DONE, ExitCode.SOME_FAILED, ExitCode.UNREACHABLE
    assert combine([done, done]) == done
    assert combine([done, unreachable, unreachable]) == unreachable
    assert combine([done, ExitCode.UNAUTHORIZED, unreachable]) == failed


def test_the_numbers_are_those_that_scripts_know() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "DONE": 0, "SOME_FAILED": 1, "USAGE": 2, "UNREACHABLE": 3, "UNAUTHORIZED": 4,
        "NOT_WRITTEN": 5, "INTERRUPTED": 130,
    }  # fmt: skip


def test_no_jobs_are_done() -> None:
    assert combine([]) == ExitCode.DONE
