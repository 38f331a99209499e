"""Arguments of the command line: the parser, and the command that it reads.

Does not know: the server's API, apart from the names of the options.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trellis2_server import __version__
from trellis2_server.client.cli.numbers import FaceCounts, Number
from trellis2_server.client.cli.output_names import (
    name_of_text,
    name_of_url,
    read_file_type,
    read_output_names,
)
from trellis2_server.client.errors import UsageError
from trellis2_server.client.options import EXTENSIONS, OPTIONS
from trellis2_server.purposes import PURPOSES, suited_fields
from trellis2_server.request_fields import MAX_PICTURES, SIDES

if TYPE_CHECKING:
    from trellis2_server.client.cli.output_names import Kind, OutputNames
    from trellis2_server.client.options import FileType, Option
    from trellis2_server.request_fields import Side

_EPILOG: Final = """\
--output is a file for one picture, a folder for several pictures or with a slash at its end, or
a pattern such as 'out/{stem}_{seed}.glb' with {stem}, {index}, {seed}, {uid} and {hash}. The
suffix of a file or pattern selects the file type; without one, the file gets that of its type.
Standard output has one line for each file: its path. With --json it has one JSON object for
each picture instead.

environment variables:
  TRELLIS2_SERVER           address of the server, if --server is omitted
  TRELLIS2_SERVER_API_KEY   API key, if --api-key and --api-key-file are omitted

exit codes:
  0    all pictures are done
  1    some pictures failed, see standard error; the others are done
  2    invalid arguments or an unreadable picture; nothing was sent
  3    the server is unreachable, or was not ready in time
  4    the API key is missing or wrong
  5    a result cannot be written
  130  interrupted; jobs in progress were cancelled on the server
"""


@dataclass(frozen=True, slots=True)
class ServerArguments:
    """The server to use.

    Attributes:
        address: address; None: the client's default.
        api_key: API key; None: the client's default.
        patience_s: how long to retry, seconds.
        is_awaited: whether to wait until the server is ready.
    """

    address: str | None
    api_key: str | None
    patience_s: float
    is_awaited: bool


@dataclass(frozen=True, slots=True)
class OutputArguments:
    """Files to write, and what to print.

    Attributes:
        names: names of the files.
        kinds: files to write for each picture.
        type: file type of the models.
        has_texture: whether the models have a texture.
        json: whether to print JSON objects instead of paths.
        is_quiet: whether to print errors only.
    """

    names: OutputNames
    kinds: Sequence[Kind]
    type: FileType
    has_texture: bool
    json: bool
    is_quiet: bool


@dataclass(frozen=True, slots=True)
class Command:
    """The command line.

    Attributes:
        pictures: image files, at least one; of several of one object, the first one; of a text or
            URL, a name that stands for it.
        request: arguments of `AsyncClient.generate`, apart from the picture.
        server: the server to use.
        output: files to write, and what to print.
        jobs: most jobs at the same time.
        views: several pictures of one object, for one job; None: each picture is a job.
        has_files: whether the pictures are files; false: the request has a text or URL.
    """

    pictures: Sequence[Path]
    request: dict[str, Any]
    server: ServerArguments
    output: OutputArguments
    jobs: int
    views: Mapping[Side, Path] | Sequence[Path] | None = None
    has_files: bool = True


def read_command(arguments: Sequence[str] | None = None, *, program: str | None = None) -> Command:
    """Read the command line.

    Args:
        arguments: arguments without the program's name; None: those of the process.
        program: name that the usage line shows; None: the name of the process.

    Raises:
        UsageError: the arguments contradict each other, or a file cannot be read.
        SystemExit: argparse has printed the help, or an error in the arguments.
    """
    parser = _parser(program or Path(sys.argv[0]).name)
    parsed = parser.parse_args(arguments)
    views = _read_views(parsed.views) if parsed.views else None
    stand_in = _read_stand_in(parsed)
    if views is None and stand_in is None and not parsed.pictures:
        parser.error("the following arguments are required: PICTURE")
    if views is not None and parsed.pictures:
        raise UsageError("--views: cannot be combined with other pictures")
    files = [*views.values()] if isinstance(views, Mapping) else [*(views or parsed.pictures)]
    pictures = [stand_in] if stand_in else files[:1] if views else files
    parsed.type = read_file_type(parsed.output, parsed.type, len(pictures))
    suited: dict[str, Any] = {}
    if parsed.purpose:
        suited = suited_fields(parsed.purpose, parsed.type, has_mesh=bool(parsed.mesh))
    suited_type = suited.pop("type", "glb")
    parsed.type = parsed.type or suited_type
    _check(parsed, files)
    kinds: list[Kind] = ["model"]
    if parsed.with_shape:
        kinds.append("shape")
    if parsed.thumbnail:
        kinds.append("thumbnail")
    names = read_output_names(parsed.output, pictures, parsed.type, kinds=kinds, mesh=parsed.mesh)
    return Command(
        pictures=pictures,
        request={
            "mesh": parsed.mesh,
            "texture": not parsed.shape_only,
            "shape": parsed.with_shape,
            "type": parsed.type,
            "extra": _read_extra(parsed),
            **suited,
            **_read_options(parsed),
        },
        server=ServerArguments(
            parsed.server, _read_api_key(parsed), parsed.patience, parsed.wait_for_server
        ),
        output=OutputArguments(
            names, kinds, parsed.type, not parsed.shape_only, parsed.json, parsed.quiet
        ),
        jobs=parsed.jobs,
        views=views,
        has_files=stand_in is None,
    )


# ---- the parser ----------------------------------------------------------------------------


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        usage="%(prog)s [options] PICTURE [PICTURE ...]\n"
        "       %(prog)s [options] --views SIDE=PICTURE [SIDE=PICTURE ...]\n"
        "       %(prog)s [options] --text WORDS | --image-url URL",
        description="Generate 3D models from pictures on a server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pictures", nargs="*", type=Path, metavar="PICTURE", help="image file")
    parser.add_argument(
        "--views",
        nargs="+",
        metavar="SIDE=PICTURE",
        help=f"several pictures of one object, for one model: {', '.join(SIDES)}; or up to "
        f"{MAX_PICTURES} without sides, the front first",
    )
    parser.add_argument(
        "--text", metavar="WORDS", help="words in place of a picture, where the server takes them"
    )
    parser.add_argument(
        "--image-url", metavar="URL", help="URL of the picture, where the server fetches from it"
    )
    parser.add_argument("--version", action="version", version=__version__)
    _add_server(parser.add_argument_group("server"))
    _add_output(parser.add_argument_group("results"))
    options = parser.add_argument_group(
        "generation options", "Omitted options use the server's configuration."
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


def _add_server(group: Any) -> None:
    add = group.add_argument
    add("--server", metavar="URL", help="address of the server (http://127.0.0.1:8082)")
    add("--api-key", metavar="KEY", help="API key; other users of this machine may see it")
    add("--api-key-file", type=Path, metavar="FILE", help="file that contains the API key")
    add("--wait-for-server", action="store_true", help="wait until the server is ready")
    add(
        "--patience",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long to retry while the server is busy or unreachable (300)",
    )
    add("--webhook", metavar="URL", help="address that the server tells of the end of each job")
    add("--jobs", type=int, default=4, metavar="N", help="most jobs at the same time (4)")


def _add_output(group: Any) -> None:
    add = group.add_argument
    add("-o", "--output", metavar="PATH", help="see below (current folder)")
    add("--shape-only", action="store_true", help="generate no texture")
    add("--with-shape", action="store_true", help="also write the untextured model, once ready")
    add(
        "--type",
        choices=list(EXTENSIONS),
        help="file type of the models (by --output, or glb)",
    )
    add(
        "--for",
        "--preset",
        dest="purpose",
        choices=list(PURPOSES),
        help="what the models are for: type, size and other options that suit it, where they are "
        "omitted",
    )
    add("--mesh", type=Path, metavar="FILE", help="texture this mesh, generate no shape")
    add("--thumbnail", action="store_true", help="also write a PNG that shows the model")
    add("--json", action="store_true", help="print one JSON object for each picture")
    add("-q", "--quiet", action="store_true", help="print errors only")


def _add_option(group: Any, option: Option) -> None:
    arguments: dict[str, Any] = {"default": None, "help": option.meaning}
    if option.bounds:
        low, high = option.bounds
        arguments["help"] += f", {low:,} … {high:,}" + (f", or {option.word}" * bool(option.word))
    if option.kind == "boolean":
        arguments["action"] = argparse.BooleanOptionalAction
    elif option.kind == "interval":
        arguments |= {"type": Number((0, 1)), "nargs": 2, "metavar": ("FROM", "TO")}
    elif option.kind == "integers":
        arguments |= {"type": FaceCounts(option.bounds or (0, math.inf)), "metavar": "N,N[,…]"}
    elif option.choices:
        arguments |= {"type": int if option.kind == "integer" else str, "choices": option.choices}
    else:
        number = Number(option.bounds, is_whole=option.kind == "integer", word=option.word)
        arguments |= {"type": number, "metavar": f"N|{option.word}" if option.word else "N"}
    flag = f"--{option.name.replace('_', '-')}"
    group.add_argument(flag, dest=f"option_{option.name}", **arguments)


# ---- values --------------------------------------------------------------------------------


def _read_views(given: Sequence[str]) -> Mapping[Side, Path] | Sequence[Path]:
    """Return the pictures of one object, in the order of their sides.

    Raises:
        UsageError: a side is unknown or there twice, some have one and others none, there is none
            of the front, or there are too many.
    """
    if len(given) > MAX_PICTURES:
        raise UsageError(f"--views: {len(given)} pictures; at most {MAX_PICTURES} are allowed")
    found: dict[Side, Path] = {}
    for view in given:
        side, _, file = view.partition("=")
        if side in SIDES and file:
            if side in found:
                raise UsageError(f"--views {side}: there are two pictures of it")
            found[side] = Path(file)
    if not found:
        return [Path(view) for view in given]
    if len(found) < len(given):
        odd = next(view for view in given if view.partition("=")[0] not in found)
        raise UsageError(f"--views {odd}: must be SIDE=PICTURE; sides are {', '.join(SIDES)}")
    if "front" not in found:
        raise UsageError("--views: needs front=PICTURE")
    return {side: found[side] for side in SIDES if side in found}


def _read_stand_in(parsed: argparse.Namespace) -> Path | None:
    """Return the name of a text or URL in place of pictures; None: there is none.

    Raises:
        UsageError: there is something else, too, or it is empty.
    """
    given = {"--text": parsed.text, "--image-url": parsed.image_url}
    flags = [flag for flag, value in given.items() if value is not None]
    if not flags:
        return None
    if len(flags) > 1 or parsed.pictures or parsed.views:
        raise UsageError(f"{flags[0]}: cannot be combined with other pictures or texts")
    if not given[flags[0]].strip():
        raise UsageError(f"{flags[0]}: empty")
    return name_of_url(parsed.image_url) if parsed.text is None else name_of_text(parsed.text)


def _check(parsed: argparse.Namespace, pictures: Sequence[Path]) -> None:
    for file in (*pictures, *([parsed.mesh] if parsed.mesh else [])):
        if not os.access(file, os.R_OK) or not file.is_file():
            raise UsageError(f"{file}: not a readable file")
    if parsed.jobs < 1:
        raise UsageError("--jobs: must be 1 or more")
    if not parsed.patience >= 0:  # nor if it is no number
        raise UsageError("--patience: must be 0 or more")
    if parsed.shape_only and parsed.mesh:
        raise UsageError("--mesh: cannot be combined with --shape-only")
    if parsed.mesh and parsed.with_shape:
        raise UsageError("--with-shape: cannot be combined with --mesh")


def _read_options(parsed: argparse.Namespace) -> dict[str, Any]:
    values = {option.name: getattr(parsed, f"option_{option.name}") for option in OPTIONS}
    for option in OPTIONS:
        value = values[option.name]
        if option.kind == "interval" and value is not None and value[0] > value[1]:
            flag = f"--{option.name.replace('_', '-')}"
            raise UsageError(f"{flag}: FROM {value[0]} must not be over TO {value[1]}")
    return {name: value for name, value in values.items() if value is not None}


def _read_extra(parsed: argparse.Namespace) -> dict[str, object]:
    """Return the fields of the request that are no options of the library."""
    names = ("text", "image_url", "webhook")
    extra = {name: value for name in names if (value := getattr(parsed, name)) is not None}
    for assignment in parsed.option:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise UsageError(f"--option {assignment}: must be NAME=VALUE")
        if name == "type":  # the file would have the suffix of another one
            raise UsageError(f"--option {assignment}: use --type")
        try:
            extra[name] = json.loads(value)
        except ValueError:
            extra[name] = value
    return extra


def _read_api_key(parsed: argparse.Namespace) -> str | None:
    if parsed.api_key is not None:
        return parsed.api_key
    if parsed.api_key_file is None:
        return None
    try:
        return parsed.api_key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{parsed.api_key_file}: cannot read an API key from it") from error
