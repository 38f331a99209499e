"""TIFF files of any samples, written however TIFF stores them."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Order = Literal["<", ">"]
#: Types of TIFF: short, long and bytes of any kind.
SHORT, LONG, UNDEFINED = 3, 4, 7
_LETTERS = {SHORT: "H", LONG: "I", UNDEFINED: "B"}
#: Predictors: differences of neighbours, and of the bytes of floating point.
HORIZONTAL, FLOATING = 2, 3
_DEFLATE = 8
_OFFSETS = {273, 324}


@dataclass
class Tiff:
    """How a TIFF is stored."""

    order: Order = "<"
    in_planes: bool = False
    is_packed: bool = False
    predictor: int = 1
    rows: int = 0
    tile: int = 0
    extra: int = 2
    more: dict[int, tuple[int, list[int]]] = field(default_factory=dict)

    def write(self, samples: NDArray[Any]) -> bytes:
        """Return a TIFF of the samples [H, W, C], whatever their dtype is."""
        height, width, count = samples.shape
        bits, kind = 8 * samples.dtype.itemsize, {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
        planes = np.moveaxis(samples, 2, 0)[..., None] if self.in_planes else samples[None]
        pieces = [piece for plane in planes for piece in self._cut(plane)]
        data = [self._store(piece) for piece in pieces]
        offsets, sizes = (324, 325) if self.tile else (273, 279)
        entries = {
            256: (LONG, [width]), 257: (LONG, [height]), 258: (SHORT, [bits] * count),
            259: (SHORT, [_DEFLATE if self.is_packed else 1]),
            262: (SHORT, [2 if count > 2 else 1]), 277: (SHORT, [count]),
            284: (SHORT, [2 if self.in_planes else 1]), 317: (SHORT, [self.predictor]),
            339: (SHORT, [kind] * count), offsets: (LONG, [0] * len(data)),
            sizes: (LONG, [len(each) for each in data]), **self.more,
        }  # fmt: skip
        entries |= (
            {322: (LONG, [self.tile]), 323: (LONG, [self.tile])}
            if self.tile
            else {278: (LONG, [self.rows or height])}
        )
        if count in {2, 4}:
            entries[338] = SHORT, [self.extra]
        return self._file(dict(sorted(entries.items())), data)

    def _file(self, entries: dict[int, tuple[int, list[int]]], data: list[bytes]) -> bytes:
        before = 8 + 2 + 12 * len(entries) + 4
        start = before + sum(
            length
            for letter, values in entries.values()
            if (length := struct.calcsize(f"{len(values)}{_LETTERS[letter]}")) > 4
        )
        directory, more = struct.pack(f"{self.order}H", len(entries)), b""
        for tag, (letter, values) in entries.items():
            stored = values
            if tag in _OFFSETS:
                stored = (start + np.cumsum([0, *map(len, data[:-1])])).tolist()
            packed = struct.pack(f"{self.order}{len(stored)}{_LETTERS[letter]}", *stored)
            directory += struct.pack(f"{self.order}HHI", tag, letter, len(stored))
            if len(packed) > 4:
                directory += struct.pack(f"{self.order}I", before + len(more))
                more += packed
            else:
                directory += packed.ljust(4, b"\0")
        head = {"<": b"II*\0", ">": b"MM\0*"}[self.order] + struct.pack(f"{self.order}I", 8)
        return head + directory + bytes(4) + more + b"".join(data)

    def _cut(self, plane: NDArray[Any]) -> list[NDArray[Any]]:
        """Return strips or tiles [h, w, C]; tiles at the edges are whole."""
        height, width, _ = plane.shape
        if not self.tile:
            rows = self.rows or height
            return [plane[top : top + rows] for top in range(0, height, rows)]
        size = self.tile
        padded = np.pad(plane, ((0, -height % size), (0, -width % size), (0, 0)))
        corners = product(range(0, height, size), range(0, width, size))
        return [padded[top : top + size, left : left + size] for top, left in corners]

    def _store(self, piece: NDArray[Any]) -> bytes:
        size = piece.dtype.itemsize
        stored = np.ascontiguousarray(piece)
        if self.predictor == HORIZONTAL:
            whole = stored.view(f"u{size}")
            stored = np.diff(whole, axis=1, prepend=np.zeros_like(whole[:, :1]))
        ordered = stored.astype(stored.dtype.newbyteorder(self.order)).tobytes()
        if self.predictor == FLOATING:
            height, width, count = piece.shape
            big = np.ascontiguousarray(piece).astype(piece.dtype.newbyteorder(">"))
            planes = np.moveaxis(big.view(np.uint8).reshape(height, width * count, size), 2, 1)
            rows = np.ascontiguousarray(planes).reshape(height, -1, count)
            ordered = np.diff(rows, axis=1, prepend=np.zeros_like(rows[:, :1])).tobytes()
        return zlib.compress(ordered) if self.is_packed else ordered
