"""The segments of a JPEG file: a marker and its content, scans without their pixels.

ITU-T T.81, "Digital compression and coding of continuous-tone still images", annex B.

Does not know: limits, what a decoder does with them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

START_OF_SCAN, END_OF_IMAGE, APP1 = 0xDA, 0xD9, 0xE1
#: Markers of frames, which hold the measures of the picture; 0xC4, 0xC8 and 0xCC are others.
START_OF_FRAME: Final = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}

_MARKER: Final = re.compile(rb"\xff[^\x00\xff]")
#: Inside a scan, restart markers do not end it.
_END_OF_SCAN: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
#: Markers without content: TEM, restarts, start and end of image.
_BARE: Final = {0x01, *range(0xD0, 0xDA)}


class Segment(NamedTuple):
    """One segment.

    Attributes:
        marker: its second byte.
        content: without marker and length.
        skipped: bytes before it that belong to no segment and no scan.
        start: where it is in the file.
        is_there: whether the file has all of it; False for the last segment, or the end, of a file
            that is cut short.
    """

    marker: int
    content: bytes
    skipped: int
    start: int
    is_there: bool = True

    @property
    def pixels(self) -> int:
        """Number of pixels in a frame's header."""
        return int.from_bytes(self.content[1:3], "big") * int.from_bytes(self.content[3:5], "big")


def read_segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments of the first picture; the last one is its end."""
    at, pattern = 2, _MARKER
    while found := pattern.search(data, at):
        start, marker = found.start(), data[found.end() - 1]
        skipped = start - at if pattern is _MARKER else 0
        at, content = found.end(), b""
        if marker not in _BARE:
            end = max(at + int.from_bytes(data[at : at + 2], "big"), at + 2)
            at, content = end, data[at + 2 : end]
        yield Segment(marker, content, skipped, start, at <= len(data))
        if marker == END_OF_IMAGE:
            return
        pattern = _END_OF_SCAN if marker == START_OF_SCAN else _MARKER
    skipped = len(data) - at if pattern is _MARKER else 0
    yield Segment(END_OF_IMAGE, b"", skipped, len(data), is_there=False)
