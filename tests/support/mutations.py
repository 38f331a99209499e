"""Mutated pictures and meshes: honest and hostile files with bytes changed, cut, repeated, spliced.

`PICTURES` and `MESHES` name the small files that mutations begin with; `mutated` is a Hypothesis
strategy.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from bench import hostile_heic, hostile_meshes, hostile_pictures
from tests.support.heic import HEIC
from tests.support.meshes import as_bytes, egg, two_nodes
from tests.support.pictures import encode, photograph, vase
from tests.support.tiff_files import FLOATING, Tiff

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: A mutated file is not longer, in bytes.
MAX_BYTES: Final = 1_000_000
#: Values that are often wrong in a field of a length, count, offset or index.
_INTEGERS: Final = (
    0, 1, 2, 3, 7, 127, 128, 254, 255, 256, 32_767, 32_768, 65_534, 65_535, 65_536,
    2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**40,
)  # fmt: skip
_WORDS: Final = (
    b"0", b"-1", b"1e400", b"-1e-400", b"nan", b"inf", b"4294967296", b"9" * 400, b"0x1f", b"",
    b"null", b"{}", b"[]", b'"\\ud800"', b"true", b"\xff\xfe", b"\r", b"\\\n", b"#",
)  # fmt: skip
_NUMBER: Final = re.compile(rb"[-+.\deE]{1,20}")

_SMALL_NOISE: Final = functools.partial(photograph, 64, 48)


def _modes(kind: str, mode: str, **options: object) -> Callable[[], bytes]:
    return lambda: encode(_SMALL_NOISE().convert(mode), kind, **options)


def _sixteen_bits() -> bytes:
    return encode(Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)), "PNG")


def _float_tiff(stored: Tiff) -> Callable[[], bytes]:
    return lambda: stored.write(np.asarray(_SMALL_NOISE(), np.float32) / 255)


def _ply_of_corners() -> bytes:
    header = (
        b"ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\n"
        b"property float z\nelement face 4\nproperty list uchar int vertex_indices\n"
        b"property list uchar float texcoord\nend_header\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
    )
    faces = (b"0 2 1", b"0 1 3", b"0 3 2", b"1 2 3")
    return header + b"".join(b"3 " + face + b" 6 0 0 .5 0 .5 .5\n" for face in faces)


def _with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker" * 20
    return encode(_SMALL_NOISE(), "JPEG", exif=exif)


def _text_ply() -> bytes:
    mesh: Any = egg()
    return mesh.export(file_type="ply", encoding="ascii")


def _animation(kind: str) -> Callable[[], bytes]:
    frames = [photograph(32, 24, seed) for seed in range(3)]
    return lambda: encode(frames[0], kind, save_all=True, append_images=frames[1:])


PICTURES: Final[Mapping[str, Callable[[], bytes]]] = {
    "png": lambda: encode(vase(64, 48)),
    "png-16-bit": _sixteen_bits,
    "png-palette": _modes("PNG", "P"),
    "png-two-colours": _modes("PNG", "1"),
    "png-profile": functools.partial(hostile_pictures.png_profile, 4),
    "png-texts": functools.partial(hostile_pictures.png_many, b"tEXt", b"a\0b", 2000),
    "png-animation": functools.partial(hostile_pictures.png_animation, 5),
    "jpeg": _modes("JPEG", "RGB"),
    "jpeg-progressive": _modes("JPEG", "RGB", progressive=True, subsampling=2),
    "jpeg-grey": _modes("JPEG", "L"),
    "jpeg-cmyk": _modes("JPEG", "CMYK"),
    "jpeg-exif": _with_exif,
    "jpeg-exif-loop": hostile_pictures.jpeg_exif_loop,
    "jpeg-empty-scans": functools.partial(hostile_pictures.jpeg_empty_scans, 256, 200),
    "tiff": _modes("TIFF", "RGBA"),
    "tiff-lzw": _modes("TIFF", "RGB", compression="tiff_lzw"),
    "tiff-deflate": _modes("TIFF", "RGB", compression="tiff_adobe_deflate"),
    "tiff-fax": _modes("TIFF", "1", compression="group4"),
    "tiff-float": _modes("TIFF", "F"),
    "tiff-float-colours": _float_tiff(Tiff()),
    "tiff-float-tiles": _float_tiff(Tiff(tile=16, is_packed=True, predictor=FLOATING)),
    "tiff-float-planes": _float_tiff(Tiff(">", in_planes=True, rows=9, is_packed=True)),
    "tiff-tiny-tiles": functools.partial(hostile_pictures.tiff_tiny_tiles, 24),
    "tiff-tiny-strips": functools.partial(hostile_pictures.tiff_tiny_strips, 100),
    "tiff-huge-counts": hostile_pictures.tiff_huge_counts,
    "gif": _modes("GIF", "P"),
    "gif-animation": _animation("GIF"),
    "gif-huge-frame": hostile_pictures.gif_huge_frame,
    "bmp": _modes("BMP", "RGB"),
    "bmp-runs": functools.partial(hostile_pictures.bmp_runs, 40),
    "webp": _modes("WEBP", "RGB"),
    "webp-lossless": lambda: encode(vase(64, 48), "WEBP", lossless=True),
    "webp-animation": _animation("WEBP"),
    "webp-wrong-sizes": hostile_pictures.webp_wrong_sizes,
    "avif": _modes("AVIF", "RGB", speed=10),
    "avif-animation": _animation("AVIF"),
    "heic": lambda: HEIC,
    "heic-grid": functools.partial(hostile_heic.heic_grid, 2),
    "heic-nested-grids": functools.partial(hostile_heic.heic_nested_grids, 1, 2),
}

MESHES: Final[Mapping[str, Callable[[], bytes]]] = {
    "glb": lambda: as_bytes(egg(), "glb"),
    "glb-nodes": lambda: as_bytes(two_nodes(), "glb"),
    "glb-odd-names": hostile_meshes.glb_odd_names,
    "glb-deep-tree": functools.partial(hostile_meshes.glb_deep_tree, 30),
    "glb-sparse": hostile_meshes.glb_sparse,
    "glb-far-nodes": hostile_meshes.glb_far_nodes,
    "glb-amplified": functools.partial(hostile_meshes.glb_amplified, 4, 30),
    "obj": lambda: as_bytes(egg(), "obj"),
    "obj-two": hostile_meshes.obj_far_apart,
    "obj-groups": functools.partial(hostile_meshes.obj_lines, b"g a\nusemtl b\n\\\n", 500),
    "obj-long-face": functools.partial(hostile_meshes.obj_long_face, 600),
    "obj-without-area": hostile_meshes.obj_without_area,
    "ply": lambda: as_bytes(egg(), "ply"),
    "ply-text": _text_ply,
    "ply-long-face": functools.partial(hostile_meshes.ply_long_face, 50),
    "ply-lists": functools.partial(hostile_meshes.ply_lists, 50),
    "ply-many-properties": functools.partial(hostile_meshes.ply_many_properties, 20),
    "ply-many-elements": functools.partial(hostile_meshes.ply_many_elements, 20),
    "ply-corners": _ply_of_corners,
    "ply-claims": hostile_meshes.ply_claims,
    "stl": lambda: as_bytes(egg(), "stl"),
    "stl-text": lambda: as_bytes(egg(), "stl_ascii"),
    "stl-needles": functools.partial(hostile_meshes.stl_needles, 30),
    "stl-not-finite": hostile_meshes.stl_not_finite,
}


def mutated(files: Mapping[str, Callable[[], bytes]]) -> st.SearchStrategy[bytes]:
    """Draw one of the files, changed one to three times."""
    contents = [make() for make in files.values()]
    return _mutated(contents)


@st.composite
def _mutated(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    content = draw(st.sampled_from(contents))
    for _ in range(draw(st.integers(1, 3))):
        change = draw(st.sampled_from(_CHANGES))
        content = change(draw, content, contents)[:MAX_BYTES]
    return content


def _at(draw: st.DrawFn, content: bytes) -> int:
    """Draw a position; often one in the head, where formats keep their lengths."""
    near = draw(st.booleans())
    return draw(st.integers(0, max(0, min(len(content), 400 if near else MAX_BYTES) - 1)))


def _flip(draw: st.DrawFn, content: bytes, _: list[bytes]) -> bytes:
    at, value = _at(draw, content), draw(st.integers(0, 255))
    return content[:at] + bytes((value,)) + content[at + 1 :]


def _cut(draw: st.DrawFn, content: bytes, _: list[bytes]) -> bytes:
    at, size = _at(draw, content), draw(st.sampled_from((1, 2, 4, 16, 500, MAX_BYTES)))
    return content[:at] + content[at + size :]


def _repeat(draw: st.DrawFn, content: bytes, _: list[bytes]) -> bytes:
    at, size = _at(draw, content), draw(st.sampled_from((1, 4, 12, 40, 300)))
    return (
        content[:at]
        + content[at : at + size] * draw(st.sampled_from((2, 3, 50, 2000)))
        + (content[at + size :])
    )


def _splice(draw: st.DrawFn, content: bytes, contents: list[bytes]) -> bytes:
    other = draw(st.sampled_from(contents))
    return content[: _at(draw, content)] + other[_at(draw, other) :]


def _insert(draw: st.DrawFn, content: bytes, _: list[bytes]) -> bytes:
    at = _at(draw, content)
    return content[:at] + draw(st.binary(min_size=1, max_size=12)) + content[at:]


def _set_integer(draw: st.DrawFn, content: bytes, _: list[bytes]) -> bytes:
    at, size = _at(draw, content), draw(st.sampled_from((1, 2, 4, 8)))
    value = draw(st.sampled_from(_INTEGERS)) % 256**size
    return content[:at] + value.to_bytes(size, draw(_ORDER)) + content[at + size :]


def _set_word(draw: st.DrawFn, content: bytes, _: list[bytes]) -> bytes:
    """Replace what looks like a number in a text."""
    found = _NUMBER.search(content, _at(draw, content))
    if found is None:
        return content
    return content[: found.start()] + draw(st.sampled_from(_WORDS)) + content[found.end() :]


_ORDER: Final = st.sampled_from(("little", "big"))
_CHANGES: Final = (_flip, _cut, _repeat, _splice, _insert, _set_integer, _set_integer, _set_word)
