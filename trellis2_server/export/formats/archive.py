"""Write ZIP files whose bytes depend only on their contents."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Final, NamedTuple

from trellis2_server.export.cancellation import checked

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Date of all entries, so that equal contents give equal bytes.
_DATE: Final = (1980, 1, 1, 0, 0, 0)


class ArchiveEntry(NamedTuple):
    """A file in an archive.

    Attributes:
        name: path in the archive.
        content: bytes of the file, in chunks.
        compression: `zipfile.ZIP_STORED` or `zipfile.ZIP_DEFLATED`.
    """

    name: str
    content: Iterable[bytes]
    compression: int


def write_zip(entries: Sequence[ArchiveEntry]) -> bytes:
    """Return a ZIP with the entries in the given order."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for entry in entries:
            info = zipfile.ZipInfo(entry.name, _DATE)
            info.compress_type = entry.compression
            with archive.open(info, "w") as file:
                for chunk in checked(entry.content):
                    file.write(chunk)
    return stream.getvalue()
