"""Names of output files: from a file, a folder or a pattern.

Does not know: servers, terminals.
"""

from __future__ import annotations

import os
import re
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
#: Placeholders of a pattern; the last three are known once the job is done.
PLACEHOLDERS: Final = ("stem", "index", "seed", "uid", "hash")
#: Longest name of a text or URL, characters.
MAX_NAME_LENGTH: Final = 40
_GLTF_ZIP: Final = f".{EXTENSIONS['gltf_zip']}"
#: Suffix → the file type that it selects.
_TYPES: Final[Mapping[str, FileType]] = {f".{each}": kind for kind, each in EXTENSIONS.items()}
_ENDINGS: Final[Mapping[Kind, str]] = {"model": "", "shape": "_shape", "thumbnail": "_thumbnail"}


@dataclass(frozen=True, slots=True)
class OutputNames:
    """Names of the files of each picture.

    Attributes:
        pattern: path with `{placeholders}`, without a suffix.
        suffix: suffix of the models, with its dot.
        shape_suffix: suffix of the untextured models beside textured ones.
    """

    pattern: str
    suffix: str
    shape_suffix: str

    def path(self, kind: Kind, values: Mapping[str, str | int]) -> Path:
        """Return the path of a file; `values` has one value for each placeholder."""
        suffix = {"model": self.suffix, "shape": self.shape_suffix, "thumbnail": ".png"}[kind]
        return Path(f"{self.pattern.format(**values)}{_ENDINGS[kind]}{suffix}")


def read_file_type(
    output: str | None, file_type: FileType | None, pictures: int
) -> FileType | None:
    """Return the file type that `--output` and `--type` select; None: neither does.

    Args:
        output: a pattern, a folder or a file; None: the current folder.
        file_type: the one of `--type`; None: it is left out.
        pictures: how many there are.

    Raises:
        UsageError: the suffix of the output is unknown, or not one of this type; or it is that of
            a file, and there are several pictures.
    """
    suffix = "" if output is None else _split(output)[1]
    if not output or not suffix:
        return file_type
    found = _TYPES.get(suffix.lower())
    if _is_folder(output, pictures):
        if found is not None and not output.endswith(("/", os.sep)) and not Path(output).is_dir():
            raise UsageError(
                f"--output {output}: is one file, and there are {pictures} pictures; use a folder, "
                "or a pattern such as '{stem}" + suffix + "'"
            )
        return file_type
    if file_type is None:
        if found is None:
            raise UsageError(
                f"--output {output}: {suffix} is not the suffix of a file type (--type); these "
                f"are {', '.join(_TYPES)}"
            )
        return found
    if suffix.lower() not in _suffixes(file_type):
        allowed = " or ".join(_suffixes(file_type))
        raise UsageError(
            f"--output {output}: does not match --type {file_type}, whose files end in {allowed}"
        )
    return file_type


def read_output_names(
    output: str | None,
    pictures: Sequence[Path],
    file_type: FileType,
    *,
    kinds: Sequence[Kind],
    mesh: Path | None = None,
) -> OutputNames:
    """Return the names of the files of these pictures.

    Args:
        output: a pattern, a folder (if there are several pictures, if it exists, or with a slash
            at its end) or a file; None: the current folder.
        pictures: image files, which are not overwritten.
        file_type: file type of the models.
        kinds: files that are written for each picture.
        mesh: mesh file, which is not overwritten.

    Raises:
        UsageError: the pattern is invalid, two files would have the same name, or a picture or
            the mesh would be overwritten.
    """
    suffix = f".{EXTENSIONS[file_type]}"
    if output is None:
        pattern = "{stem}"
    elif "{" in output:
        _check_pattern(output)
        pattern, ending = _split(output)
        suffix = ending or suffix
    elif _is_folder(output, len(pictures)):
        pattern = os.path.join(_escape(output), "{stem}")  # noqa: PTH118 - no path yet
    else:
        stem, ending = _split(output)
        pattern, suffix = _escape(stem), ending or suffix
    # Only the textured OBJ has a material and images, and is zipped with them.
    names = OutputNames(pattern, suffix, ".obj" if file_type == "obj_zip" else suffix)
    inputs = [*pictures, *([mesh] if mesh else [])]
    _check_collisions(names, pictures, inputs, kinds)
    return names


def name_of_text(text: str) -> Path:
    """Return what stands for the picture of a text in names: its first words, with hyphens."""
    name = re.sub(r"\W+", "-", text.lower()).strip("-")[:MAX_NAME_LENGTH]
    return Path(name.strip("-") or "text")


def name_of_url(url: str) -> Path:
    """Return what stands for the picture of a URL in names: that of its file, if it has one."""
    address = re.split("[?#]", url, maxsplit=1)[0].partition("://")[2]
    file = Path(address.partition("/")[2]).stem
    name = re.sub(r"\W+", "-", file)[:MAX_NAME_LENGTH].strip("-")
    return Path(name or "picture")


def _is_folder(output: str, pictures: int) -> bool:
    if "{" in output:
        return False
    return pictures > 1 or output.endswith(("/", os.sep)) or Path(output).is_dir()


def _split(output: str) -> tuple[str, str]:
    """Return what is before the suffix, and the suffix; a placeholder is none."""
    if output.lower().endswith(_GLTF_ZIP):
        return output[: -len(_GLTF_ZIP)], output[-len(_GLTF_ZIP) :]
    stem, suffix = os.path.splitext(output)  # noqa: PTH122 - a pattern is not a path yet
    if "{" in suffix or "}" in suffix:
        return output, ""
    return stem, "" if suffix == "." else suffix


def _suffixes(file_type: FileType) -> tuple[str, ...]:
    own = f".{EXTENSIONS[file_type]}"
    return (own, ".zip") if own == _GLTF_ZIP else (own,)


def _escape(path: str) -> str:
    return path.replace("{", "{{").replace("}", "}}")


def _check_pattern(pattern: str) -> None:
    try:
        found = [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]
        unknown = next((name for name in found if name not in PLACEHOLDERS), None)
        if unknown is None:
            pattern.format(**_example_values(Path("stem"), 0))
    except (ValueError, IndexError, KeyError) as error:
        raise UsageError(f"--output {pattern}: {error}") from error
    if unknown is not None:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise UsageError(f"--output {pattern}: {{{unknown}}} is not one of {known}")


def _example_values(picture: Path, index: int) -> dict[str, str | int]:
    return {"stem": picture.stem, "index": index, "seed": 0, "uid": "-", "hash": "-"}


def _check_collisions(
    names: OutputNames, pictures: Sequence[Path], inputs: Sequence[Path], kinds: Sequence[Kind]
) -> None:
    protected = {file.resolve(): file for file in inputs}
    taken: dict[Path, Path] = {}
    for index, picture in enumerate(pictures, 1):
        for kind in kinds:
            path = names.path(kind, _example_values(picture, index))
            target = path.resolve()
            if target in protected:
                raise UsageError(
                    f"{protected[target]}: would be overwritten; choose another --output"
                )
            # Paths that are equal here still differ if they contain the uid.
            if target in taken and not _has_uid(names.pattern):
                raise UsageError(
                    f"{taken[target]} and {picture} would both be written to {path}; "
                    "use {index} in --output"
                )
            taken[target] = picture


def _has_uid(pattern: str) -> bool:
    return any(name == "uid" for _, name, _, _ in string.Formatter().parse(pattern))
