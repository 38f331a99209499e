"""Printing the outcome of a job: paths or JSON objects, warnings and errors."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from trellis2_server.client.errors import ReplyError

if TYPE_CHECKING:
    from trellis2_server.client.cli.arguments import OutputArguments
    from trellis2_server.client.cli.display import Display
    from trellis2_server.client.cli.job import Outcome
    from trellis2_server.client.errors import ClientError
    from trellis2_server.client.records import Result


def print_outcome(outcome: Outcome, arguments: OutputArguments, display: Display) -> None:
    """Print errors and warnings on standard error, files or a JSON object on standard output."""
    if outcome.error is not None:
        display.write(f"error: {outcome.picture}: {_message(outcome.error)}")
    result = outcome.result
    if result is not None and not arguments.is_quiet:
        for warning in result.warnings:
            display.write(f"warning: {outcome.picture}: {warning}")
        if outcome.error is None and not (sys.stdout.isatty() and sys.stderr.isatty()):
            details = _details(result)
            display.write(f"{outcome.picture}: done in {outcome.seconds:.1f} s{details}")
    if arguments.json:
        display.write(json.dumps(_record(outcome), ensure_ascii=False), sys.stdout)
        return
    for kind, path in outcome.files.items():
        line = str(path)
        if sys.stdout.isatty():
            line = f"{line}  {path.stat().st_size / 1e6:.1f} MB"
            if kind == "model" and result is not None:
                line = f"{line}{_details(result)}, {outcome.seconds:.1f} s"
        display.write(line, sys.stdout)


def _details(result: Result) -> str:
    seed = "" if result.seed is None else f", seed {result.seed}"
    return f"{seed}, {result.engine}" if result.engine else seed


def _message(error: ClientError | OSError) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: cannot be written: {error.strerror}"
    return str(error)


def _record(outcome: Outcome) -> dict[str, Any]:
    record: dict[str, Any] = {
        "picture": str(outcome.picture),
        "files": {kind: str(path) for kind, path in outcome.files.items()},
        "seconds": round(outcome.seconds, 3),
    }
    result, error = outcome.result, outcome.error
    if result is not None:
        record |= {
            "uid": result.uid,
            "image_hash": result.image_hash,
            "seed": result.seed,
            "engine": result.engine or None,
            "background": result.background,
            "resolution": result.resolution,
            "warnings": list(result.warnings),
            "details": dict(result.details),
            "timings": dict(result.timings),
        }
    if error is not None:
        is_reply = isinstance(error, ReplyError)
        record["error"] = {
            "type": type(error).__name__,
            "text": _message(error),
            **({"status": error.status, "code": error.code} if is_reply else {}),
        }
    return record
