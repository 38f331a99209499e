"""The command line of the client: pictures in, files out.

What this module does not know: how a server is asked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trellis2_server import __version__
from trellis2_server.client.errors import (
    BusyError,
    ClientError,
    ReplyError,
    UnauthorizedError,
    UnreachableError,
    UsageError,
)
from trellis2_server.client.options import EXTENSIONS, OPTIONS
from trellis2_server.client.results import read_names, write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trellis2_server.client.client import AsyncClient
    from trellis2_server.client.display import Display, Row
    from trellis2_server.client.options import Option
    from trellis2_server.client.progress import Progress
    from trellis2_server.client.replies import JobState, Result
    from trellis2_server.client.results import Kind, Names

DONE: Final = 0
SOME_FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
UNAUTHORIZED: Final = 4
NOT_WRITTEN: Final = 5
INTERRUPTED: Final = 130
#: Seconds in which a server must answer that nobody said to wait for.
FIRST_CONTACT_S: Final = 3.0
_EPILOG: Final = """\
--output is a file for one picture, a folder for several or when it ends with a slash, or a
pattern: 'out/{stem}_{seed}.glb', of {stem}, {index}, {seed}, {uid} and {hash}. Standard output
has one line for each model: its path, or with --json an object that says all there is to say.

environment:
  TRELLIS2_SERVER           the server's address, where --server is not given
  TRELLIS2_SERVER_API_KEY   the key, where neither --api-key nor --api-key-file is given

exit codes:
  0    all pictures are done
  1    some failed, and standard error says why; the others are done
  2    the command line is wrong, or a picture cannot be read; nothing was sent
  3    the server cannot be reached, or is not ready in time
  4    the server wants an API key, or another one
  5    a result cannot be written
  130  interrupted; what was in progress was cancelled on the server
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code.

    Args:
        arguments: without the program's name; None takes the process' own.
    """
    try:
        asked = _parser().parse_args(arguments)
        task = _read_task(asked)
        return asyncio.run(_make_all(task))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the answer to a command
        return USAGE
    except KeyboardInterrupt:
        begin = "\r" if sys.stderr.isatty() else ""  # after the terminal's own ^C
        print(f"{begin}interrupted; what was in progress is cancelled", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except BrokenPipeError:
        # Nobody reads on; the interpreter would complain of it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_WRITTEN


# ---- what is asked for ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Task:
    """The command line, read.

    Attributes:
        pictures: at least one.
        names: of the files that are written.
        request: arguments of `AsyncClient.generate` beside the picture.
        asked: the rest.
    """

    pictures: Sequence[Path]
    names: Names
    request: dict[str, Any]
    asked: argparse.Namespace


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trellis2_server.client",
        usage="%(prog)s [options] PICTURE [PICTURE ...]",
        description="Makes 3D models of pictures, on a server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("pictures", nargs="+", type=Path, metavar="PICTURE", help="an image file")
    add("--version", action="version", version=__version__)
    where = parser.add_argument_group("server")
    add = where.add_argument
    add("--server", metavar="URL", help="its address (http://127.0.0.1:8082)")
    add("--api-key", metavar="KEY", help="others on this machine may see it; better:")
    add("--api-key-file", type=Path, metavar="FILE", help="a file with the key in it")
    add("--wait-for-server", action="store_true", help="until it is there and has loaded its model")
    add(
        "--patience",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long to go on asking a server that is full or does not answer (300)",
    )
    add("--jobs", type=int, default=4, metavar="N", help="pictures at a time (4)")
    what = parser.add_argument_group("results")
    add = what.add_argument
    add("-o", "--output", metavar="PATH", help="see below (the present folder)")
    add("--shape-only", action="store_true", help="no texture")
    add("--with-shape", action="store_true", help="the untextured model too, when it is there")
    add("--type", default="glb", choices=list(EXTENSIONS), help="of the files (glb)")
    add("--mesh", type=Path, metavar="FILE", help="texture this mesh after the picture")
    add("--thumbnail", action="store_true", help="a PNG that shows the model, beside it")
    add("--json", action="store_true", help="one JSON object a line for each picture")
    add("-q", "--quiet", action="store_true", help="no progress, only what failed")
    options = parser.add_argument_group(
        "options of the generation", "What is left out is as the server is configured."
    )
    for option in OPTIONS:
        _add_option(options, option)
    options.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other field of the request",
    )
    return parser


def _add_option(group: Any, option: Option) -> None:
    how: dict[str, Any] = {"default": None, "help": option.meaning}
    if option.bounds:
        low, high = option.bounds
        how["help"] += f", {low:,} … {high:,}"
    if option.kind == "boolean":
        how["action"] = argparse.BooleanOptionalAction
    elif option.kind == "interval":
        how |= {"type": float, "nargs": 2, "metavar": ("FROM", "TO")}
    else:
        how["type"] = {"integer": int, "number": float, "string": str}[option.kind]
        how |= {"choices": option.choices} if option.choices else {"metavar": "N"}
    group.add_argument(f"--{option.name.replace('_', '-')}", dest=f"option_{option.name}", **how)


def _read_task(asked: argparse.Namespace) -> _Task:
    for picture in (*asked.pictures, *([asked.mesh] if asked.mesh else [])):
        if not os.access(picture, os.R_OK) or not picture.is_file():
            raise UsageError(f"{picture}: there is no such file to be read")
    if asked.jobs < 1:
        raise UsageError("--jobs: must be 1 or more")
    if asked.patience < 0:
        raise UsageError("--patience: must be 0 or more")
    if asked.shape_only and asked.mesh:
        raise UsageError("--mesh: nothing would be done with it with --shape-only")
    if asked.mesh and asked.with_shape:
        raise UsageError("--with-shape: no shape is made for a --mesh")
    kinds: list[Kind] = ["model"]
    if asked.with_shape:
        kinds.append("shape")
    if asked.thumbnail:
        kinds.append("thumbnail")
    given = {option.name: getattr(asked, f"option_{option.name}") for option in OPTIONS}
    return _Task(
        pictures=asked.pictures,
        names=read_names(asked.output, asked.pictures, asked.type, kinds=kinds, mesh=asked.mesh),
        request={
            "mesh": asked.mesh,
            "texture": not asked.shape_only,
            "shape": asked.with_shape,
            "type": asked.type,
            "extra": _read_extra(asked.option),
            **{name: value for name, value in given.items() if value is not None},
        },
        asked=asked,
    )


def _read_extra(given: Sequence[str]) -> dict[str, object]:
    extra: dict[str, object] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise UsageError(f"--option {each}: must be NAME=VALUE")
        try:
            extra[name] = json.loads(value)
        except ValueError:
            extra[name] = value
    return extra


def _api_key(asked: argparse.Namespace) -> str | None:
    if asked.api_key is not None:
        return asked.api_key
    if asked.api_key_file is None:
        return None
    try:
        return asked.api_key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{asked.api_key_file}: no key can be read from it") from error


# ---- making --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Made:
    """What is there of a picture.

    Attributes:
        files: kind → path of what was written.
        result: what the server replied.
        failure: why that is not all.
        seconds: that it took.
    """

    files: dict[str, Path] = field(default_factory=dict["str", Path])
    result: Result | None = None
    failure: ClientError | OSError | None = None
    seconds: float = 0.0


async def _make_all(task: _Task) -> int:
    from trellis2_server.client.client import AsyncClient
    from trellis2_server.client.display import choose_display

    asked = task.asked
    display = choose_display(quiet=asked.quiet)
    client = AsyncClient(asked.server, api_key=_api_key(asked), patience_s=asked.patience)
    async with client:
        failure = await _meet(client, display, is_awaited=asked.wait_for_server)
        if failure is not None:
            display.write(f"error: {failure}")
            return _code(failure)
        places = asyncio.Semaphore(asked.jobs)
        codes = await asyncio.gather(
            *(
                _make(client, task, index, display, places)
                for index in range(1, len(task.pictures) + 1)
            )
        )
    failed = {code for code in codes if code != DONE}
    return DONE if not failed else failed.pop() if len(failed) == 1 else SOME_FAILED


async def _meet(client: AsyncClient, display: Display, *, is_awaited: bool) -> ClientError | None:
    """Why the server cannot be asked, if it cannot."""
    row = display.row("server")
    is_late = False

    def show(progress: Progress) -> None:
        nonlocal is_late
        is_late = is_late or progress.fraction < 1
        if is_late:
            row.show(progress)

    try:
        await client.wait_until_ready(float("inf") if is_awaited else FIRST_CONTACT_S, show)
    except BusyError as error:
        # It is there; whether it will do, asking shows.
        return error if is_awaited else None
    except ClientError as error:
        return error
    finally:
        row.end()
    return None


def _code(failure: ClientError | OSError) -> int:
    if isinstance(failure, OSError):
        return NOT_WRITTEN
    if isinstance(failure, UnreachableError | BusyError):
        return UNREACHABLE
    return UNAUTHORIZED if isinstance(failure, UnauthorizedError) else SOME_FAILED


async def _make(
    client: AsyncClient, task: _Task, index: int, display: Display, places: asyncio.Semaphore
) -> int:
    """The exit code of that picture."""
    picture = task.pictures[index - 1]
    made = _Made()
    async with places:
        row = display.row(picture.name)
        begin = time.monotonic()
        try:
            await _write(client, task, index, row, made)
        except (ClientError, OSError) as error:
            made.failure = error
        finally:
            row.end()
        made.seconds = time.monotonic() - begin
    _tell(task, picture, made, display)
    return DONE if made.failure is None else _code(made.failure)


async def _write(client: AsyncClient, task: _Task, index: int, row: Row, made: _Made) -> None:
    picture, asked = task.pictures[index - 1], task.asked
    values: dict[str, str | int] = {"stem": picture.stem, "index": index}
    values |= {"seed": "unknown", "uid": "unknown", "hash": "unknown"}

    def know(about: JobState | Result) -> None:
        known = {"seed": about.seed, "uid": about.uid, "hash": about.image_hash}
        values.update({name: value for name, value in known.items() if value is not None})

    def show(progress: Progress) -> None:
        if progress.job is not None:
            know(progress.job)
        row.show(progress)

    def write(kind: Kind, content: bytes) -> None:
        path = task.names.path(kind, values)
        write_whole(path, content)
        made.files[kind] = path

    result = await client.generate(
        picture, on_progress=show, on_shape=lambda content: write("shape", content), **task.request
    )
    made.result = result
    know(result)
    await asyncio.to_thread(write, "model", result.model)
    if asked.with_shape and result.shape is not None and "shape" not in made.files:
        await asyncio.to_thread(write, "shape", result.shape)
    if asked.thumbnail:
        from trellis2_server.client.drawing import draw_thumbnail
        from trellis2_server.client.progress import Progress

        glb = result.model
        if asked.type != "glb":
            file = "shape.glb" if asked.shape_only else "textured.glb"
            glb = await client.download(result.uid, file)
        row.show(Progress(1.0, "drawing the thumbnail"))
        await asyncio.to_thread(lambda: write("thumbnail", draw_thumbnail(glb)))


# ---- telling -------------------------------------------------------------------------------


def _tell(task: _Task, picture: Path, made: _Made, display: Display) -> None:
    if made.failure is not None:
        display.write(f"error: {picture}: {_sentence(made.failure)}")
    result = made.result
    if result is not None and not task.asked.quiet:
        for warning in result.warnings:
            display.write(f"warning: {picture}: {warning}")
        if made.failure is None and not (sys.stdout.isatty() and sys.stderr.isatty()):
            display.write(f"{picture}: done in {made.seconds:.1f} s{_about(result)}")
    if task.asked.json:
        display.write(json.dumps(_record(picture, made), ensure_ascii=False), sys.stdout)
        return
    for kind, path in made.files.items():
        line = str(path)
        if sys.stdout.isatty():
            line = f"{line}  {path.stat().st_size / 1e6:.1f} MB"
            if kind == "model" and result is not None:
                line = f"{line}{_about(result)}, {made.seconds:.1f} s"
        display.write(line, sys.stdout)


def _about(result: Result) -> str:
    seed = "" if result.seed is None else f", seed {result.seed}"
    return f"{seed}, {result.engine}" if result.engine else seed


def _sentence(failure: ClientError | OSError) -> str:
    if isinstance(failure, OSError):
        return f"{failure.filename}: cannot be written: {failure.strerror}"
    return str(failure)


def _record(picture: Path, made: _Made) -> dict[str, Any]:
    record: dict[str, Any] = {
        "picture": str(picture),
        "files": {kind: str(path) for kind, path in made.files.items()},
        "seconds": round(made.seconds, 3),
    }
    result, failure = made.result, made.failure
    if result is not None:
        record |= {
            "uid": result.uid,
            "image_hash": result.image_hash,
            "seed": result.seed,
            "engine": result.engine or None,
            "background": result.background,
            "resolution": result.resolution,
            "warnings": list(result.warnings),
            "timings": dict(result.timings),
        }
    if failure is not None:
        is_reply = isinstance(failure, ReplyError)
        record["error"] = {
            "type": type(failure).__name__,
            "text": _sentence(failure),
            **({"status": failure.status, "code": failure.code} if is_reply else {}),
        }
    return record
