from __future__ import annotations

import base64
import io
import struct

import pytest
from PIL import Image

from trellis2_server.errors import InputError
from trellis2_server.inputs.foreign_files import describe_file, is_heif
from trellis2_server.inputs.images.decoding import decode_image
from trellis2_server.inputs.images.formats import FORMATS, available_formats
from trellis2_server.inputs.meshes import check_beginning, read_scene


def boxes(brand: bytes, *more: bytes) -> bytes:
    """The beginning of an ISO base media file."""
    brands = brand + bytes(4) + b"".join(more)
    return struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(2000)


def stl(header: bytes, more: bytes = b"") -> bytes:
    """A binary STL of two faces."""
    return header.ljust(80, b"\0") + struct.pack("<I", 2) + bytes(100) + more


FILES = {
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "SVG with a declaration": (b"<?xml version='1.0'?>\n<!-- a -->\n<svg/>", "an SVG drawing"),
    "SVG with a BOM": (b"\xef\xbb\xbf <SVG viewBox='0 0 1 1'>", "an SVG drawing"),
    "SVG in UTF-16": ("\ufeff<svg width='1'/>".encode("utf-16-le"), "an SVG drawing"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
    "HTML": (b"<!DOCTYPE html><html><body>404", "an HTML page"),
    "HTML with a comment": (b"\n<!-- cached -->\n<html lang=en>", "an HTML page"),
    "XML": (b"<?xml version='1.0'?><Error/>", "an XML document"),
    "MP4": (boxes(b"isom", b"mp41"), "a video (MP4)"),
    "MOV": (boxes(b"qt  "), "a video (QuickTime)"),
    "old MOV": (b"\0\0\0\x08wide\0\0\1\0mdat", "a video (QuickTime)"),
    "M4A": (boxes(b"M4A ", b"mp42"), "a sound file (M4A)"),
    "WebM": (b"\x1aE\xdf\xa3\x9fB\x86\x81\1", "a video (WebM or Matroska)"),
    "AVI": (b"RIFF\x10\0\0\0AVI LIST", "a video (AVI)"),
    "PSD": (b"8BPS\0\1", "a Photoshop document (PSD)"),
    "JPEG XL": (b"\xff\x0a\xfa\x1f", "a JPEG XL picture"),
    "OpenEXR": (b"v/1\x01\2\0\0\0", "an OpenEXR picture"),
    "ICO": (b"\0\0\1\0\1\0\x10\x10", "an icon (ICO)"),
    "GLB": (b"glTF\2\0\0\0", "a mesh (GLB); send it as mesh"),
    "glTF": (b'\n{"asset" : {"version": "2.0"}}', "a mesh (glTF); send it as mesh"),
    "glTF with a late asset": (
        b'{"scene": 0, "asset": {"generator": "x", "version": "2.0"}',
        "a mesh (glTF); send it as mesh",
    ),
    "PLY": (b"ply\r\nformat ascii 1.0", "a mesh (PLY); send it as mesh"),
    "binary STL": (stl(bytes(80)), "a mesh (STL); send it as mesh"),
    "binary STL with words": (stl(b"solid made by a CAD"), "a mesh (STL); send it as mesh"),
    "binary STL like a PDF": (stl(b"%PDF-"), "a mesh (STL); send it as mesh"),
    "text STL": (b"solid\n  facet normal 0 0 1\n outer loop", "a mesh (STL); send it as mesh"),
    "empty text STL": (b" SOLID a\nENDSOLID a\n", "a mesh (STL); send it as mesh"),
    "OBJ": (
        b"# made by hand\r\n\r\nmtllib a.mtl\r\no a\r\nv 1 -.5 2e-3\r\n",
        "a mesh (OBJ); send it as mesh",
    ),
    "OBJ with colours": (b"v 1. 0 0 1 1 1\nv 0 1 0", "a mesh (OBJ); send it as mesh"),
    "FBX": (b"Kaydara FBX Binary  \0\x1a\0", "a 3D model (FBX)"),
    "solid as a word": (b"solid oak chair with a facet", "text"),
    "v as a word": (b"v 1 for victory\nv 1 2 3", "text"),
    "ZIP": (b"PK\3\4\x14\0", "a ZIP archive or an Office document"),
    "URL": (b"https://example.org/a/cat.png?size=2\n", "an address (URL)"),
    "URL without a scheme": (b"www.example.org/cat.png", "an address (URL)"),
    "blob URL": (b"blob:https://example.org/1b2c", "an address (URL)"),
    "path": (b"/home/user/My pictures/cat.JPG", "the path of a file"),
    "Windows path": (b"C:\\Users\\me\\cat.png", "the path of a file"),
    "file name": (b"cat.webp", "the path of a file"),
    "data URL": (b"data:image/png;base64,iVBORw0KGgo=", "a data: URL"),
    "JSON": (b'{"image": "..."}', "JSON text"),
    "base64": (base64.b64encode(bytes(range(200))), "base64 text"),
    "text": ("a red chair, Möbel".encode(), "text"),
    "zeros": (bytes(5000), "a file of zeros"),
    "zeros of the size of an STL without faces": (bytes(84), "a file of zeros"),
}


@pytest.mark.parametrize(("data", "what"), FILES.values(), ids=FILES.keys())
def test_the_message_says_what_a_file_is(data: bytes, what: str) -> None:
    assert describe_file(data) == what
    with pytest.raises(InputError, match=r"^image: not a PNG") as caught:
        decode_image(data, max_pixels=100_000)
    assert str(caught.value).endswith(f" file but {what}")


@pytest.mark.parametrize("name", FORMATS)
def test_a_picture_sent_as_a_mesh_is_named_before_it_is_read(name: str) -> None:
    if name not in available_formats():
        pytest.skip(f"this Pillow has no {name}")
    stream = io.BytesIO()
    if name == "HEIF":  # which the smaller package does not write
        stream.write(boxes(b"heic", b"mif1"))
    else:
        Image.new("RGB", (64, 48), "red").save(stream, name)
    what = f"a picture ({FORMATS[name]}); send it as image"
    for check in (check_beginning, read_scene):
        with pytest.raises(InputError) as caught:
            check(stream.getvalue())
        assert str(caught.value) == f"mesh: not a GLB, glTF, OBJ, PLY or STL file but {what}"


@pytest.mark.parametrize(
    ("data", "name"),
    [(boxes(b"mif1", b"avif"), "AVIF"), (boxes(b"mif1", b"heic"), "HEIC"),
     (boxes(b"isom", b"heic"), "HEIC")],
    ids=["AVIF of several brands", "HEIC of several brands", "HEIC of another brand"],
)  # fmt: skip
def test_a_picture_of_boxes_sent_as_a_mesh_is_told_by_all_of_its_brands(
    data: bytes, name: str
) -> None:
    with pytest.raises(InputError, match=rf"a picture \({name}\); send it as image$"):
        check_beginning(data)


@pytest.mark.parametrize(("data", "what"), FILES.values(), ids=FILES.keys())
def test_a_mesh_is_never_refused_by_its_beginning(data: bytes, what: str) -> None:
    if what.startswith("a mesh"):
        check_beginning(data)
    else:
        with pytest.raises(InputError, match=r"^mesh: "):
            read_scene(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"\1\2\3", b"\x80" * 300, b"abc\1\2", stl(b"", b"\0"), stl(b"")[:-1], bytes(100) + b"\1"],
    ids=["empty", "control", "high", "mixed", "STL and more", "STL cut short", "zeros and a one"],
)
def test_unknown_bytes_are_not_described(data: bytes) -> None:
    assert describe_file(data) is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [(boxes(b"heic", b"mif1", b"heic"), True), (boxes(b"mif1", b"mif1", b"heic"), True),
     (boxes(b"avif", b"mif1", b"avif"), False), (boxes(b"mif1", b"avif"), False),
     (boxes(b"isom"), False), (boxes(b"isom", b"heix"), True), (boxes(b"isom", b"hevc"), False),
     *((boxes(b"hei" + end), True) for end in (b"c", b"x", b"m", b"s")), (boxes(b"hevc"), True),
     (boxes(b"hevx"), True), (boxes(b"msf1"), True), (boxes(b"mif2"), True),
     (b"", False), (b"\xff\xd8\xff", False)],
)  # fmt: skip
def test_heic_is_told_from_avif_and_video(data: bytes, *, expected: bool) -> None:
    assert is_heif(data) is expected
