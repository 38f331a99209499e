"""What a request's body is, by its content type and its first bytes.

Clients declare types that are not so: `curl --data-binary` says `x-www-form-urlencoded` for a
picture, and many libraries say nothing.

Does not know: how a body is parsed.
"""

from __future__ import annotations

import codecs
import re
from typing import Final, Literal

#: `empty` is a little white space, too.
BodyKind = Literal["empty", "form", "urlencoded", "json", "picture"]

#: First bytes of a body that are looked at.
HEAD_BYTES: Final = 1_024
#: First bytes of pictures, also of those that the server cannot read: its message then says so.
_PICTURES: Final = (
    b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"8BPS", b"\0\0\1\0", b"\xff\x0a", b"%PDF", b"qoif",
)  # fmt: skip
#: Names of ISO media and JPEG 2000 boxes, after four bytes of length: HEIC, AVIF, JPEG XL.
_BOXES: Final = (b"ftyp", b"jP  ", b"JXL ")
#: The beginning of a form with its first boundary (RFC 7578).
_FORM: Final = re.compile(
    rb"(?:\r\n)?--([^\r\n]{1,200})\r\nContent-(?:Disposition|Type)\s*:", re.IGNORECASE
)
#: Byte order marks, and the zero bytes of an ASCII character (RFC 4627, section 3), of JSON that is
#: not UTF-8. The longer one first: that of UTF-32 begins with that of UTF-16.
_JSON_CODECS: Final = (
    (re.compile(re.escape(codecs.BOM_UTF32_LE) + rb"|[^\0]\0\0\0"), "utf-32-le"),
    (re.compile(re.escape(codecs.BOM_UTF32_BE) + rb"|\0\0\0[^\0]"), "utf-32-be"),
    (re.compile(re.escape(codecs.BOM_UTF16_LE) + rb"|[^\0]\0[^\0]\0|[^\0]\0\Z"), "utf-16-le"),
    (re.compile(re.escape(codecs.BOM_UTF16_BE) + rb"|\0[^\0]\0[^\0]|\0[^\0]\Z"), "utf-16-be"),
)
_BEGINNINGS_OF_JSON: Final = ("{", "[")


def body_kind(head: bytes, media_type: str) -> BodyKind:
    """Return what a body is.

    The bytes decide where they are clear; a declared `image/*` or `multipart/*` is believed.

    Args:
        head: the first `HEAD_BYTES` of the body.
        media_type: the declared content type, lower case, without parameters; may be empty.
    """
    if media_type.startswith(("multipart/", "image/")):
        return "form" if media_type.startswith("multipart/") else "picture"
    clear = _clear_kind(head)
    if clear is not None:
        return clear
    if media_type == "application/x-www-form-urlencoded":
        return "urlencoded"
    is_text = media_type.startswith("text/") or media_type.endswith("json") or not media_type
    if is_text and not _is_binary(head) and not head.lstrip().startswith(b"<"):
        return "json"  # whose parser says what is wrong
    return "picture"


def _clear_kind(head: bytes) -> BodyKind | None:
    if not head.strip():
        return "empty"
    if _is_picture(head):
        return "picture"
    if _is_json(head):
        return "json"
    return "form" if _FORM.match(head) else None


def json_codec(head: bytes) -> str | None:
    """Return the codec of JSON that is UTF-16 or UTF-32; None: it is UTF-8, or no JSON."""
    return next((name for pattern, name in _JSON_CODECS if pattern.match(head)), None)


def form_boundary(head: bytes) -> bytes:
    """Return the boundary that a form begins with; empty: it begins with none."""
    match = _FORM.match(head)
    return match.group(1) if match else b""


def _is_picture(head: bytes) -> bool:
    return head.startswith(_PICTURES) or head[4:8] in _BOXES


def _is_json(head: bytes) -> bool:
    codec = json_codec(head)
    unit = 4 if codec and "32" in codec else 2
    text = head[: len(head) // unit * unit].decode(codec or "utf-8", "ignore")
    return text.lstrip("\ufeff \t\r\n").startswith(_BEGINNINGS_OF_JSON)


def _is_binary(head: bytes) -> bool:
    """Return whether it is no UTF-8 text; a character that is cut off at the end counts as text."""
    if b"\0" in head:
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return True
    return False
