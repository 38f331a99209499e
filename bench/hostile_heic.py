"""HEIC files that cost more to decode than to send.

They are made of boxes (ISO/IEC 14496-12, 23008-12) around one coded picture of 64 x 64 pixels.

Does not know: how they are sent, what the server makes of them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from tests.support.heic import HEIC

if TYPE_CHECKING:
    from collections.abc import Callable

#: The coded picture: its edge, where its configuration lies in the file, and where its data.
_TILE_PX: Final = 64
_CONFIGURATION: Final = slice(211, 329)
_CODED: Final = slice(492, 947)
#: Items and references that libheif accepts, and more than it accepts.
_ACCEPTED: Final = 990
_TOO_MANY: Final = 65_000


def _box(kind: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return struct.pack(">I4s", 8 + len(data), kind) + data


def _full_box(kind: bytes, *content: bytes, version: int = 0, flags: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *content)


def _size(width: int, height: int) -> bytes:
    return _full_box(b"ispe", struct.pack(">II", width, height))


def _file(
    items: list[tuple[bytes, bytes, list[int]]],
    properties: list[bytes],
    references: list[tuple[int, list[int]]],
) -> bytes:
    """Return a HEIC of items, of which the first one is the picture.

    Args:
        items: types, data and numbers of the properties, from 1; their own numbers are from 1.
        properties: boxes.
        references: items, and the items that they are made from.
    """
    entries = [
        _full_box(b"infe", struct.pack(">HH4sx", number, 0, kind), version=2)
        for number, (kind, _, _) in enumerate(items, 1)
    ]
    places, data, known = list[bytes](), b"", dict[bytes, int]()
    for number, (_, content, _) in enumerate(items, 1):
        if content not in known:
            known[content] = len(data)
            data += content
        # Construction method 1: in the box `idat`, by an offset from its start.
        places.append(struct.pack(">HHHHII", number, 1, 0, 1, known[content], len(content)))
    owned = b"".join(
        struct.pack(">HB", number, len(own)) + bytes(own)
        for number, (_, _, own) in enumerate(items, 1)
    )
    count = struct.pack(">H", len(items))
    meta = _full_box(
        b"meta",
        _full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
        _full_box(b"pitm", struct.pack(">H", 1)),
        _full_box(b"iloc", b"\x44\x00", count, *places, version=1),
        _full_box(b"iinf", count, *entries),
        _box(
            b"iprp",
            _box(b"ipco", *properties),
            _full_box(b"ipma", struct.pack(">I", len(items)), owned),
        ),
        _full_box(
            b"iref",
            *(
                _box(b"dimg", struct.pack(f">HH{len(to)}H", number, len(to), *to))
                for number, to in references
            ),
        ),
        _box(b"idat", data),
    )
    return _box(b"ftyp", b"heic", bytes(4), b"mif1heic") + meta


def _properties(width: int, height: int) -> list[bytes]:
    return [HEIC[_CONFIGURATION], _size(_TILE_PX, _TILE_PX), _size(width, height)]


def _coded() -> tuple[bytes, bytes, list[int]]:
    return b"hvc1", HEIC[_CODED], [1, 2]


def heic_grid(edge: int = 31) -> bytes:
    """A grid of tiles that are all the same one."""
    edge_px, tiles = edge * _TILE_PX, range(2, edge * edge + 2)
    grid = bytes((0, 0, edge - 1, edge - 1)) + struct.pack(">HH", edge_px, edge_px)
    items = [(b"grid", grid, [3]), *[_coded()] * len(tiles)]
    return _file(items, _properties(edge_px, edge_px), [(1, list(tiles))])


def heic_repeated_tiles(edge: int = 124) -> bytes:
    """A grid at the limit of pixels that names one tile again and again."""
    edge_px = edge * _TILE_PX
    grid = bytes((0, 0, edge - 1, edge - 1)) + struct.pack(">HH", edge_px, edge_px)
    items = [(b"grid", grid, [3]), _coded()]
    return _file(items, _properties(edge_px, edge_px), [(1, [2] * (edge * edge))])


def heic_nested_grids(depth: int = 10, edge: int = 9) -> bytes:
    """Grids of grids, of which each names all of the next level: decoders that forget go on."""
    tiles = edge * edge
    grid = bytes((0, 0, edge - 1, edge - 1)) + struct.pack(">HH", _TILE_PX, _TILE_PX)
    items = [(b"grid", grid, [2])] * (1 + depth * tiles) + [_coded()] * tiles
    references = [(1, list(range(2, 2 + tiles)))]
    for level in range(depth):
        below = 2 + (level + 1) * tiles
        references += [(below - tiles + k, list(range(below, below + tiles))) for k in range(tiles)]
    return _file(items, _properties(_TILE_PX, _TILE_PX), references)


def heic_overlay(layers: int = _ACCEPTED - 1, edge_px: int = 7900) -> bytes:
    """One picture laid over a large canvas many times."""
    canvas = bytes(2) + struct.pack(">4H", 0, 0, 0, 65_535) + struct.pack(">HH", edge_px, edge_px)
    items = [(b"iovl", canvas + bytes(4 * layers), [3]), *[_coded()] * layers]
    references = [(1, list(range(2, 2 + layers)))]
    return _file(items, _properties(edge_px, edge_px), references)


def heic_circle() -> bytes:
    """A picture that is made from itself."""
    return _file([(b"iden", b"", [2]), _coded()], _properties(64, 64), [(1, [1])])


def heic_chain(length: int = _ACCEPTED) -> bytes:
    """A picture that is made from the next one, and so on."""
    items = [(b"iden", b"", [2])] * length + [_coded()]
    references = [(number, [number + 1]) for number in range(1, length + 1)]
    return _file(items, _properties(64, 64), references)


def heic_items(count: int = _TOO_MANY) -> bytes:
    """A small picture among items that nothing shows."""
    return _file([_coded(), *[(b"mime", b"", [])] * (count - 1)], _properties(64, 64), [])


def heic_properties(count: int = 2 * _TOO_MANY) -> bytes:
    """A small picture among properties that nothing has."""
    properties = _properties(64, 64) + [_size(64, 64)] * count
    return _file([_coded()], properties, [])


def heic_wrong_sizes(edge_px: int = 7900) -> bytes:
    """A picture whose property claims many more pixels."""
    real = _size(_TILE_PX, _TILE_PX)
    return _file([_coded()], _properties(64, 64), []).replace(real, _size(edge_px, edge_px))


def heic_cut() -> bytes:
    """The first half of the coded data."""
    return HEIC[:700]


#: Name → the function that makes the file.
HEICS: Final[dict[str, Callable[[], bytes]]] = {
    "heic-grid": heic_grid,
    "heic-repeated-tiles": heic_repeated_tiles,
    "heic-nested-grids": heic_nested_grids,
    "heic-overlay": heic_overlay,
    "heic-circle": heic_circle,
    "heic-chain": heic_chain,
    "heic-items": heic_items,
    "heic-properties": heic_properties,
    "heic-wrong-sizes": heic_wrong_sizes,
    "heic-cut": heic_cut,
}
