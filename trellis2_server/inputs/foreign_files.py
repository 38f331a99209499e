"""Say what a file is that is not of an accepted format, or sent in the wrong field.

Does not know: the accepted formats, how they are decoded.
"""

from __future__ import annotations

import re
from typing import Final, Literal

#: Bytes at the beginning of a file that are looked at.
_HEAD_BYTES: Final = 1024
#: A file of a format that requests take as a mesh, and of one that they take as a picture.
_MESH: Final = "a mesh ({}); send it as mesh"
_PICTURE: Final = "a picture ({}); send it as image"
#: Bytes of a binary STL before its faces, and of each face.
_STL_HEAD_BYTES: Final = 84
_STL_FACE_BYTES: Final = 50
#: Pictures that requests take, but for those of boxes: see `_boxed_picture`.
_PICTURES: Final[tuple[tuple[re.Pattern[bytes], str], ...]] = (
    (re.compile(rb"\x89PNG"), "PNG"),
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "WebP"),
    (re.compile(rb"GIF8"), "GIF"),
    (re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL), "BMP"),
    (re.compile(rb"II\*\0|MM\0\*"), "TIFF"),
)
#: First bytes of a file, and what it is.
_BEGINNINGS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"8BPS", "a Photoshop document (PSD)"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"v/1\x01", "an OpenEXR picture"),
    (b"#?RADIANCE", "a Radiance HDR picture"),
    (b"#?RGBE", "a Radiance HDR picture"),
    (b"DDS ", "a DDS texture"),
    (b"\xabKTX", "a KTX texture"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file"),
    (b"IIRO", "a camera's raw file"),
    (b"IIU\0", "a camera's raw file"),
    (b"\x1aE\xdf\xa3", "a video (WebM or Matroska)"),
    (b"\0\0\1\xba", "a video (MPEG)"),
    (b"\0\0\1\xb3", "a video (MPEG)"),
    (b"FLV\1", "a video (FLV)"),
    (b"OggS", "an Ogg file (sound or video)"),
    (b"ID3", "a sound file (MP3)"),
    (b"fLaC", "a sound file (FLAC)"),
    (b"glTF", _MESH.format("GLB")),
    (b"ply\n", _MESH.format("PLY")),
    (b"ply\r", _MESH.format("PLY")),
    (b"Kaydara FBX Binary", "a 3D model (FBX)"),
    (b"BLENDER", "a 3D model (Blender)"),
    (b"PXR-USDC", "a 3D model (USD)"),
    (b"#usda ", "a 3D model (USD)"),
    (b"PK\3\4", "a ZIP archive or an Office document"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xd0\xcf\x11\xe0", "an Office document"),
    (b"{\\rtf", "an RTF document"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)
#: Brands of ISO base media files: pictures; others are videos.
_HEIF_BRANDS: Final = {
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2",
}  # fmt: skip
_AVIF_BRANDS: Final = {b"avif", b"avis"}
_RIFF: Final = {b"AVI ": "a video (AVI)", b"WAVE": "a sound file (WAV)"}
#: The first three letters of other brands.
_BRANDS: Final = {
    b"qt ": "a video (QuickTime)",
    b"M4A": "a sound file (M4A)",
    b"M4B": "a sound file (M4A)",
    b"crx": "a camera's raw file",
}

_LINES: Final[tuple[tuple[re.Pattern[bytes], str], ...]] = (
    (
        re.compile(rb"(?:https?://?|ftp://|file:/|blob:)\S+|www\.\S+", re.IGNORECASE),
        "an address (URL)",
    ),
    (
        re.compile(
            rb"[^\0-\x1f<>|{}\"]+\.(?:png|jpe?g|webp|gif|bmp|tiff?|avif|hei[cf]|svg|glb|obj)",
            re.IGNORECASE,
        ),
        "the path of a file",
    ),
)
_TEXTS: Final[tuple[tuple[re.Pattern[bytes], str], ...]] = (
    (re.compile(rb"<(?:.{0,1000}<)?svg\b", re.IGNORECASE | re.DOTALL), "an SVG drawing"),
    (
        re.compile(
            rb"(?:<!--.{0,900}?-->\s*)?<(?:!doctype html|html|head|body)\b",
            re.IGNORECASE | re.DOTALL,
        ),
        "an HTML page",
    ),
    (re.compile(rb"<\?xml\b"), "an XML document"),
    (re.compile(rb"data:", re.IGNORECASE), "a data: URL"),
    (re.compile(rb"[{\[]"), "JSON text"),
    (re.compile(rb"[A-Za-z0-9+/_-]{64,}={0,2}"), "base64 text"),
)
_TEXT_STL: Final = re.compile(
    rb"solid\b.*?\b(?:facet\s+normal|endsolid)\b", re.IGNORECASE | re.DOTALL
)
_GLTF: Final = re.compile(rb'\{.*?"asset"\s*:\s*\{[^{}]*"version"\s*:', re.DOTALL)
#: Keywords of an OBJ that may stand before its first vertex.
_OBJ_KEYWORDS: Final = {b"mtllib", b"usemtl", b"o", b"g", b"s", b"vn", b"vt"}
_OBJ_VERTEX: Final = re.compile(rb"v(?:[ \t]+[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?){3,7}")
_CONTROL: Final = re.compile(rb"[\0-\x08\x0b\x0e-\x1f\x7f]")


def is_heif(data: bytes) -> bool:
    """Whether a file is a picture of the kind that phones call HEIC."""
    return _boxed_picture(data) == "HEIC"


def describe_no_mesh(data: bytes) -> str | None:
    """Return what a file in the field of meshes is, with its article; None: unknown.

    Args:
        data: the file, none of the accepted meshes.
    """
    name = next((name for pattern, name in _PICTURES if pattern.match(data)), None)
    name = name or _boxed_picture(data)
    if name is not None:
        return _PICTURE.format(name)
    what = describe_file(data)
    return None if what is None or what.startswith("a mesh") else what


def describe_file(data: bytes) -> str | None:
    """Return what a file is, with its article, for a message; None: unknown.

    Args:
        data: the file, none of the accepted pictures.
    """
    head = data[:_HEAD_BYTES]
    if _is_binary_stl(data):  # whose first 80 bytes may be anything
        return _MESH.format("STL")
    if data and data.count(0) == len(data):
        return "a file of zeros"
    known = next((what for start, what in _BEGINNINGS if head.startswith(start)), None)
    return known or _describe_media(head) or _describe_text(head, len(data))


def _is_binary_stl(data: bytes) -> bool:
    """Whether a file has the size that a binary STL of its number of faces has."""
    faces = int.from_bytes(data[_STL_HEAD_BYTES - 4 : _STL_HEAD_BYTES], "little")
    return faces > 0 and len(data) == _STL_HEAD_BYTES + _STL_FACE_BYTES * faces


def _brands(data: bytes) -> set[bytes]:
    size = min(int.from_bytes(data[:4], "big"), _HEAD_BYTES)
    return {data[8:12], *(data[at : at + 4] for at in range(16, size - 3, 4))}


def _boxed_picture(data: bytes) -> Literal["AVIF", "HEIC"] | None:
    """Return the format of a picture that is an ISO base media file; None: it is none."""
    if data[4:8] != b"ftyp":
        return None
    brands = _brands(data)
    if brands & _AVIF_BRANDS:
        return "AVIF"
    is_heif_brand = data[8:12] in _HEIF_BRANDS or bool(brands & {b"heic", b"heix", b"mif1"})
    return "HEIC" if is_heif_brand else None


def _describe_media(head: bytes) -> str | None:
    """Describe a file of boxes or of RIFF chunks: pictures, videos, sound."""
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] != b"ftyp":
        return "a video (QuickTime)" if head[4:8] in {b"moov", b"mdat", b"wide"} else None
    name = _boxed_picture(head)
    if name is None:
        return _BRANDS.get(head[8:11], "a video (MP4)")
    return "an AVIF picture" if name == "AVIF" else "a HEIC picture"


def _describe_text(head: bytes, length: int) -> str | None:
    for mark, charset in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if head.startswith(mark):
            head = head[2:].decode(charset, "ignore").encode()
    text = head.removeprefix(b"\xef\xbb\xbf").strip()
    if length <= _HEAD_BYTES:
        whole = next((what for pattern, what in _LINES if pattern.fullmatch(text)), None)
        if whole is not None:
            return whole
    known = _describe_mesh(text)
    known = known or next((what for pattern, what in _TEXTS if pattern.match(text)), None)
    if known is not None or not text or _CONTROL.search(text) or not _is_utf8(text):
        return known
    return "text"


def _describe_mesh(text: bytes) -> str | None:
    for pattern, name in ((_TEXT_STL, "STL"), (_GLTF, "glTF")):
        if pattern.match(text):
            return _MESH.format(name)
    for line in text.splitlines():
        stripped = line.strip()
        if _OBJ_VERTEX.fullmatch(stripped):
            return _MESH.format("OBJ")
        if stripped and not stripped.startswith(b"#") and stripped.split()[0] not in _OBJ_KEYWORDS:
            return None
    return None


def _is_utf8(text: bytes) -> bool:
    try:
        text[:-3].decode()
    except UnicodeDecodeError:
        return False
    return True
