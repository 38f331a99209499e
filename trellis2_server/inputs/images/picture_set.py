"""`PictureSet`: several picture files of one object, which are one input of a job.

Does not know: what is in the files, requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trellis2_server.digests import md5

if TYPE_CHECKING:
    from trellis2_server.request_fields import Side


# Without `repr`: that of the files would be four times as large as they are.
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PictureSet:
    """Two to eight picture files.

    Attributes:
        contents: the files.
        sides: what side each shows; None: unknown.
    """

    contents: tuple[bytes, ...]
    sides: tuple[Side | None, ...]

    def __len__(self) -> int:
        """Size of all files, bytes."""
        return sum(map(len, self.contents))

    @property
    def digest(self) -> str:
        """MD5 of the files, their sides and their order, 32 hex digits."""
        parts = zip(self.sides, self.contents, strict=True)
        return md5(" ".join(f"{side}:{md5(content)}" for side, content in parts).encode())

    def label(self, index: int) -> str:
        """Return what messages call a picture: its field, or its number from 1."""
        side = self.sides[index]
        return f"images, picture {index + 1}" if side is None else f"image_{side}"


#: The picture file of a job, or several.
Pictures = bytes | PictureSet


def digest_of(pictures: Pictures) -> str:
    """Return what identifies an upload: of one picture the MD5 of its file."""
    return pictures.digest if isinstance(pictures, PictureSet) else md5(pictures)


def count_of(pictures: Pictures | None) -> int:
    """Return the number of pictures."""
    if pictures is None:
        return 0
    return len(pictures.contents) if isinstance(pictures, PictureSet) else 1
