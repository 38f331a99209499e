"""Where results go: names made of patterns, and files that are there whole or not at all.

What this module does not know: servers, terminals.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import string
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from trellis2_server.client.errors import UsageError
from trellis2_server.client.options import EXTENSIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trellis2_server.client.options import FileType

Kind = Literal["model", "shape", "thumbnail"]
#: What a pattern may name; the second half is known when the job is done.
PLACEHOLDERS: Final = ("stem", "index", "seed", "uid", "hash")
_ENDS: Final = {"model": "", "shape": "_shape", "thumbnail": "_thumbnail"}


@dataclass(frozen=True, slots=True)
class Names:
    """What the files are called.

    Attributes:
        pattern: a path with `{placeholders}`, without what comes after its last dot.
        suffix: that of the models, with its dot.
    """

    pattern: str
    suffix: str

    def path(self, kind: Kind, values: Mapping[str, str | int]) -> Path:
        """The file of that kind."""
        # OBJ's material and pictures come with a texture only.
        plain = ".obj" if self.suffix == ".zip" else self.suffix
        suffix = {"model": self.suffix, "shape": plain, "thumbnail": ".png"}[kind]
        return Path(f"{self.pattern.format(**values)}{_ENDS[kind]}{suffix}")


def read_names(
    output: str | None,
    pictures: Sequence[Path],
    file_type: FileType,
    *,
    kinds: Sequence[Kind],
    mesh: Path | None = None,
) -> Names:
    """What the files of these pictures are called.

    Args:
        output: a file, a folder (of several pictures, or where one is, or with a slash at its
            end) or a pattern; None: the present folder.
        pictures: the files they are made of, none of which is written over.
        file_type: of the models.
        kinds: of files that are going to be written.
        mesh: another file that is not written over.

    Raises:
        UsageError: two pictures' files would have one name, or a picture's that of a file.
    """
    suffix = f".{EXTENSIONS[file_type]}"
    if output is None:
        names = Names("{stem}", suffix)
    elif "{" in output:
        _check_pattern(output)
        stem, ending = os.path.splitext(output)  # noqa: PTH122 - a pattern is no path yet
        names = Names(stem, ending or suffix) if "{" not in ending else Names(output, suffix)
    elif len(pictures) > 1 or output.endswith(("/", os.sep)) or Path(output).is_dir():
        names = Names(os.path.join(_literal(output), "{stem}"), suffix)  # noqa: PTH118 - as above
    else:
        path = Path(output)
        names = Names(_literal(str(path.with_suffix(""))), path.suffix or suffix)
    given = [*pictures, *([mesh] if mesh else [])]
    _check_collisions(names, pictures, given, kinds)
    return names


def _literal(path: str) -> str:
    return path.replace("{", "{{").replace("}", "}}")


def _check_pattern(pattern: str) -> None:
    try:
        found = [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]
        unknown = next((name for name in found if name not in PLACEHOLDERS), None)
        if unknown is None:
            pattern.format(**_known(Path("stem"), 0))
    except (ValueError, IndexError, KeyError) as error:
        raise UsageError(f"--output {pattern}: {error}") from error
    if unknown is not None:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise UsageError(f"--output {pattern}: {{{unknown}}} is none of {known}")


def _known(picture: Path, index: int) -> dict[str, str | int]:
    return {"stem": picture.stem, "index": index, "seed": 0, "uid": "-", "hash": "-"}


def _check_collisions(
    names: Names, pictures: Sequence[Path], inputs: Sequence[Path], kinds: Sequence[Kind]
) -> None:
    given = {file.resolve(): file for file in inputs}
    taken: dict[Path, Path] = {}
    for index, picture in enumerate(pictures, 1):
        for kind in kinds:
            path = names.path(kind, _known(picture, index))
            where = path.resolve()
            if where in given:
                raise UsageError(f"{given[where]}: would be written over; choose another --output")
            # By what is known at the end only, two of them may still differ.
            if where in taken and not _tells_apart(names.pattern):
                raise UsageError(
                    f"{taken[where]} and {picture} would both become {path}; "
                    "an --output with {index} tells them apart"
                )
            taken[where] = picture


def _tells_apart(pattern: str) -> bool:
    return any(name == "uid" for _, name, _, _ in string.Formatter().parse(pattern))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is seen whole or not at all, and make its folder.

    Raises:
        OSError: it cannot be written; an older one is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
