"""Read TIFF files of deep samples that Pillow does not read: floating point, 32 bits, planes.

Pillow, which is libtiff, unpacks strips and tiles as if each byte were a grey pixel. What is left
are predictors and the order of bytes and samples: Adobe, "TIFF Revision 6.0", sections 8, 14, 15
and 18; "Adobe Photoshop TIFF Technical Note 3" for the predictor of floating point.

Does not know: what is black and white.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.images.tiff_directory import read_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from trellis2_server.inputs.images.tiff_directory import TiffDirectory

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_ORIENTATION, _SAMPLES, _ROWS, _PLANES, _PREDICTOR = 274, 277, 278, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _EXTRA, _FORMAT, _PROFILE = 322, 323, 338, 339, 34675
#: Tags of offsets and sizes, of strips and of tiles.
_STRIPS, _TILES = (273, 279), (324, 325)
_UNPACKED: Final = 1
#: LZW, deflate (two numbers), LZMA, zstd: these have predictors; and PackBits, which has none.
_WITH_PREDICTOR: Final = {5, 8, 32946, 34925, 50000}
_COMPRESSIONS: Final = {_UNPACKED, 32773} | _WITH_PREDICTOR
#: Differences of neighbours; the same of bytes, the highest bytes of a row first.
_HORIZONTAL, _FLOATING = 2, 3
#: Numbers of `SampleFormat` → kinds of dtypes; and sizes of samples, bytes.
_KINDS: Final = {1: "u", 2: "i", 3: "f"}
_SIZES: Final = (2, 4, 8)
_BLACK_IS_ZERO, _RGB = 1, 2
#: `ExtraSamples`: premultiplied alpha, and plain alpha.
_PREMULTIPLIED, _ALPHA = 1, 2
_MAX_SAMPLES: Final = 8
#: Unpacked at a time, bytes; and what one packed strip or tile may have.
_STEP_BYTES: Final = 1 << 22
_MAX_STRIP_BYTES: Final = 1 << 26
#: Packed bytes of a strip or tile that count, besides twice the unpacked ones.
_MIN_PACKED_BYTES: Final = 1024
_LONG: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class TiffSamples:
    """Samples of a TIFF.

    Attributes:
        colors: [H, W, 1] of grey or [H, W, 3] of red, green and blue; float32, or of 16 bits.
        alpha: likewise [H, W], or None.
        is_premultiplied: whether the colours are multiplied by alpha.
        is_float: whether the file has floating point.
        icc_profile: or None.
        orientation: as in EXIF.
    """

    colors: NDArray[Any]
    alpha: NDArray[Any] | None
    is_premultiplied: bool
    is_float: bool
    icc_profile: bytes | None
    orientation: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the samples of a TIFF are stored. Strips are tiles as wide as the picture.

    Attributes:
        width: of the picture, pixels.
        height: likewise.
        samples: of a pixel.
        dtype: of a sample.
        tile_width: pixels.
        tile_height: pixels.
        is_tiled: whether all tiles are whole, also at the edges.
        planes: 1, or one for each sample.
        compression: as in the file.
        predictor: likewise.
    """

    width: int
    height: int
    samples: int
    dtype: np.dtype[Any]
    tile_width: int
    tile_height: int
    is_tiled: bool
    planes: int
    compression: int
    predictor: int

    @property
    def columns(self) -> int:
        """Number of tiles in a row."""
        return -(-self.width // self.tile_width)

    @property
    def rows(self) -> int:
        """Number of rows of tiles."""
        return -(-self.height // self.tile_height)

    @property
    def row_bytes(self) -> int:
        """Size of a row of a tile."""
        return self.tile_width * (self.samples // self.planes) * self.dtype.itemsize

    def height_of(self, row: int) -> int:
        """Number of rows of pixels in the tiles of a row."""
        whole = self.tile_height
        return whole if self.is_tiled else min(whole, self.height - row * whole)


def read_tiff_samples(content: bytes) -> TiffSamples | None:
    """Read all pixels of the first picture of a TIFF.

    Args:
        content: of the file; its structure is checked, and the number of pixels.

    Returns:
        None: it is no TIFF, or its samples are of another kind.

    Raises:
        InputError: strips or tiles are missing or cut short.
        TooLargeError: one of them is too large.
        OSError, …: any of Pillow's errors, for damaged ones.
    """
    directory = read_directory(content)
    layout = None if directory is None else _read_layout(content, directory)
    if directory is None or layout is None:
        return None
    extra = _first(content, directory, _EXTRA, 0)
    color_count = 3 if layout.samples > 2 else 1  # noqa: PLR2004
    has_alpha = layout.samples > color_count and extra in {_PREMULTIPLIED, _ALPHA}
    count = color_count + has_alpha
    kind = layout.dtype.newbyteorder("=") if layout.dtype.itemsize == 2 else np.dtype(np.float32)  # noqa: PLR2004
    values = np.empty((layout.height, layout.width, count), kind)
    _fill(values, content, directory, layout)
    return TiffSamples(
        values[..., :color_count],
        values[..., color_count] if has_alpha else None,
        has_alpha and extra == _PREMULTIPLIED,
        layout.dtype.kind == "f",
        directory.bytes_of(content, _PROFILE) or None,
        _first(content, directory, _ORIENTATION, 1),
    )


def picture_size(content: bytes) -> tuple[int, int] | None:
    """Return width and height of a TIFF that `read_tiff_samples` reads; None of others."""
    directory = read_directory(content)
    layout = None if directory is None else _read_layout(content, directory)
    return None if layout is None else (layout.width, layout.height)


def _first(content: bytes, directory: TiffDirectory, tag: int, default: int) -> int:
    return next(iter(directory.first_values(content, tag)), default)


def _read_layout(content: bytes, directory: TiffDirectory) -> _Layout | None:
    def first(tag: int, default: int = 0) -> int:
        return _first(content, directory, tag, default)

    width, height, samples = first(_WIDTH), first(_HEIGHT), first(_SAMPLES, 1)
    bits, formats = (directory.all_values(content, tag).tolist() for tag in (_BITS, _FORMAT))
    kind, size = _KINDS.get((*formats, 1)[0]), (*bits, 1)[0] // 8
    is_known = (
        min(width, height) > 0
        and 0 < samples <= _MAX_SAMPLES
        and len({*bits}) == 1
        and len({*formats}) <= 1
        and kind is not None
        and size in _SIZES
        and bits[0] % 8 == 0
        and not (kind != "f" and size == 8)  # noqa: PLR2004 - no program writes these
        and first(_FILL_ORDER, 1) == 1
        and first(_COMPRESSION, 1) in _COMPRESSIONS
        and (first(_PREDICTOR, 1) != _FLOATING or kind == "f")
        and first(_PHOTOMETRIC) == (_RGB if samples > 2 else _BLACK_IS_ZERO)  # noqa: PLR2004
    )
    if not is_known:
        return None
    is_tiled = bool(directory.count(*_TILES))
    compression = first(_COMPRESSION, 1)
    return _Layout(
        width,
        height,
        samples,
        np.dtype(f"{directory.order}{kind}{size}"),
        max(first(_TILE_WIDTH), 1) if is_tiled else width,
        max(first(_TILE_HEIGHT), 1) if is_tiled else min(max(first(_ROWS, height), 1), height),
        is_tiled,
        samples if first(_PLANES, 1) == 2 else 1,  # noqa: PLR2004
        compression,
        first(_PREDICTOR, 1) if compression in _WITH_PREDICTOR else 1,
    )


def _fill(values: NDArray[Any], content: bytes, directory: TiffDirectory, layout: _Layout) -> None:
    """Read all tiles into an array [H, W, C], of which the last samples may be left out."""
    tags = _TILES if layout.is_tiled else _STRIPS
    offsets, sizes = (directory.all_values(content, tag) for tag in tags)
    each = layout.rows * layout.columns
    if min(len(offsets), len(sizes)) < each * layout.planes:
        raise InputError("image: the TIFF file is damaged: strips or tiles are missing")
    is_packed = layout.compression != _UNPACKED
    if is_packed and layout.tile_height * layout.row_bytes > _MAX_STRIP_BYTES:
        raise TooLargeError(
            "image: a packed strip or tile of the TIFF file is over the limit of "
            f"{_MAX_STRIP_BYTES} bytes; save it as PNG"
        )
    inside = layout.samples // layout.planes
    for plane in range(min(layout.planes, values.shape[2])):
        first = plane if layout.planes > 1 else 0
        places = slice(plane * each, (plane + 1) * each)
        for top, left, raw in _unpacked(content, offsets[places], sizes[places], layout):
            part = values[top : top + len(raw), left : left + layout.tile_width, first:]
            tile = _samples(raw, layout, inside)
            wanted = min(inside, part.shape[2])
            with np.errstate(over="ignore"):
                part[..., :wanted] = tile[: len(part), : part.shape[1], :wanted]


def _unpacked(
    content: bytes, offsets: NDArray[np.int64], sizes: NDArray[np.int64], layout: _Layout
) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """Yield where a tile, or some strips, are in the picture, and their bytes, uint8 [h, B]."""
    unpacked = layout.tile_height * layout.row_bytes
    if layout.compression == _UNPACKED:
        for index, offset in enumerate(offsets.tolist()):
            row, column = divmod(index, layout.columns)
            top, height = row * layout.tile_height, layout.height_of(row)
            if len(content) < offset + height * layout.row_bytes:
                raise InputError("image: the file is damaged or cut short")
            step = max(_STEP_BYTES // layout.row_bytes, 1)
            for at in range(0, height, step):
                count = min(step, height - at)
                first = offset + at * layout.row_bytes
                rows = np.frombuffer(content, np.uint8, count * layout.row_bytes, first)
                left = column * layout.tile_width
                yield top + at, left, rows.reshape(count, -1)
        return
    step = max(_STEP_BYTES // unpacked, 1)
    # More than this is no more of the tile, however large the file says it is.
    sizes = np.minimum(sizes, 2 * unpacked + _MIN_PACKED_BYTES)
    for start in range(0, len(offsets), step):
        indices = range(start, min(start + step, len(offsets)))
        heights = [layout.height_of(at // layout.columns) for at in indices]
        packed = [content[int(offsets[at]) : int(offsets[at] + sizes[at])] for at in indices]
        rows = _unpack(packed, sum(heights), layout)
        if not layout.is_tiled:
            yield start * layout.tile_height, 0, rows
            continue
        for at, tile in zip(indices, np.split(rows, len(indices)), strict=True):
            row, column = divmod(at, layout.columns)
            yield row * layout.tile_height, column * layout.tile_width, tile


def _unpack(packed: list[bytes], height: int, layout: _Layout) -> NDArray[np.uint8]:
    """Unpack tiles one below the other, as the strips of one grey picture, uint8 [h, B]."""
    entries = {
        _WIDTH: [layout.row_bytes], _HEIGHT: [height], _BITS: [8],
        _COMPRESSION: [layout.compression], _PHOTOMETRIC: [_BLACK_IS_ZERO],
        _STRIPS[0]: [0] * len(packed), _SAMPLES: [1], _ROWS: [layout.tile_height],
        _STRIPS[1]: [len(each) for each in packed],
    }  # fmt: skip
    start = 8 + 2 + 12 * len(entries) + 4
    behind = start + 2 * _LONG * len(packed)
    entries[_STRIPS[0]] = (behind + np.cumsum([0, *entries[_STRIPS[1]][:-1]])).tolist()
    directory, arrays = struct.pack("<H", len(entries)), b""
    for tag, values in entries.items():
        stored = struct.pack(f"<{len(values)}I", *values)
        directory += struct.pack("<HHI", tag, _LONG, len(values))
        if len(values) > 1:
            directory += struct.pack("<I", start + len(arrays))
            arrays += stored
        else:
            directory += stored
    head = struct.pack("<2sHI", b"II", 42, 8) + directory + bytes(4)
    file = b"".join([head, arrays.ljust(behind - start, b"\0"), *packed])
    with Image.open(io.BytesIO(file), formats=["TIFF"]) as image:
        return np.asarray(image)


def _samples(raw: NDArray[np.uint8], layout: _Layout, count: int) -> NDArray[Any]:
    """Return the samples of a tile, [h, w, C].

    Args:
        raw: uint8 [h, B].
        layout: of the file.
        count: number of samples of a pixel in the tile.
    """
    shape = len(raw), layout.tile_width, count
    size = layout.dtype.itemsize
    if layout.predictor == _FLOATING:
        summed = np.cumsum(raw.reshape(len(raw), -1, count), axis=1, dtype=np.uint8)
        planes = summed.reshape(len(raw), size, -1)
        rows = np.ascontiguousarray(np.moveaxis(planes, 1, 2))
        return rows.view(layout.dtype.newbyteorder(">")).reshape(shape)
    rows = np.ascontiguousarray(raw)
    if layout.predictor == _HORIZONTAL:
        unsigned = rows.view(f"{layout.dtype.str[0]}u{size}").reshape(shape)
        summed = np.cumsum(unsigned, axis=1, dtype=f"u{size}")
        return summed.view(layout.dtype.newbyteorder("="))
    return rows.view(layout.dtype).reshape(shape)
