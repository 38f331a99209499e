"""Files that tools read and write: within the limits that the command line sets.

Does not know: what is in a file, MCP.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trellis2_server.client import ClientError, UsageError

if TYPE_CHECKING:
    from trellis2_server.mcp.remote_files import RemoteFiles

#: Limit of a file that a tool reads, bytes; as `server.max_body_bytes`, less base64.
MAX_FILE_BYTES: Final = 96 * 2**20
#: Base64 that is shorter is no picture, characters.
_MIN_BASE64: Final = 64
#: Of files that can be sent, only JPEG's base64 begins as a path does.
_BASE64: Final = re.compile(r"(?!/(?!9j/))[A-Za-z0-9+/_=\s-]+\Z")
_STEM: Final = re.compile(r"[\w][\w. -]{0,99}\Z")
#: Files with one name that are kept, at most.
_MAX_VERSIONS: Final = 1000


@dataclass(frozen=True, slots=True)
class FileAccess:
    """What tools may read and write.

    Attributes:
        remote: fetches files by URL.
        reads_all: whether every path may be read.
        folder: folder whose files may be read otherwise; None: none.
        output: folder that files are written into; None: nothing is written.
    """

    remote: RemoteFiles
    reads_all: bool
    folder: Path | None
    output: Path | None

    async def read(self, name: str, source: str) -> bytes:
        """Return the content of an argument: a path, a URL, a `data:` URI or base64.

        Args:
            name: name of the argument, for messages.
            source: its value.

        Raises:
            UsageError: it is none of these, or may not be read.
        """
        text = source.strip()
        if text[:5].lower() == "data:":
            return _decode(name, text.partition(",")[2])
        if re.match(r"https?://", text, re.IGNORECASE):
            return await self.remote.fetch(name, text, MAX_FILE_BYTES)
        if len(text) >= _MIN_BASE64 and _BASE64.match(text) and not _is_file(text):
            return _decode(name, text)
        return await asyncio.to_thread(self._read_path, name, text)

    def _read_path(self, name: str, text: str) -> bytes:
        if not self.reads_all and self.folder is None:
            raise UsageError(f"{name}: this server reads no files; send base64 or a URL")
        try:
            path = Path(text).expanduser()
            if self.folder is not None:
                path = (self.folder / path).resolve()
                if not path.is_relative_to(self.folder.resolve()):
                    raise UsageError(f"{name}: only files inside of {self.folder} may be read")
            if path.stat().st_size > MAX_FILE_BYTES:
                raise UsageError(f"{name}: the file is over the limit of {MAX_FILE_BYTES} bytes")
            if not path.is_file():
                raise UsageError(f"{name}: {text[:200]} is no file")
            return path.read_bytes()
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "not a path, a URL or base64"
            raise UsageError(f"{name}: {text[:200]}: {reason}") from error

    def check_name(self, stem: str) -> Path:
        """Return the output folder, if a file with that name may be written.

        Raises:
            UsageError: the name has characters that it may not have, or nothing is written.
        """
        if self.output is None:
            raise UsageError("this server writes no files: it was started without --output")
        if not _STEM.match(stem) or stem.endswith((".", " ")):
            raise UsageError(
                "name: must be letters, digits, points, hyphens and spaces, without a folder"
            )
        return self.output

    def write(self, stem: str, extension: str, content: bytes) -> Path:
        """Write a file into the output folder; return its path.

        No file is replaced: another version gets a number.

        Args:
            stem: name of the file, without its extension.
            extension: without a point.
            content: what to write.

        Raises:
            UsageError: see `check_name`.
            ClientError: the file cannot be written.
        """
        output = self.check_name(stem)
        try:
            for version in range(1, _MAX_VERSIONS + 1):
                number = "" if version == 1 else f"-{version}"
                path = (output / f"{stem}{number}.{extension}").absolute()
                try:
                    with path.open("xb") as file:
                        file.write(content)
                except FileExistsError:
                    continue
                return path
        except OSError as error:
            raise ClientError(f"{output} cannot be written: {error.strerror}") from error
        raise ClientError(f"{output} has {_MAX_VERSIONS} files of that name")


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _decode(name: str, text: str) -> bytes:
    if len(text) * 3 // 4 > MAX_FILE_BYTES:
        raise UsageError(f"{name}: the file is over the limit of {MAX_FILE_BYTES} bytes")
    plain = "".join(text.split()).translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"{name}: not base64") from error
