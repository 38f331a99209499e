"""`DataUris`: the content of `data:` URIs in a glTF file.

RFC 2397; Khronos, "glTF 2.0 Specification", chapter 3.6.1.1.

Does not know: what the content means.
"""

from __future__ import annotations

import base64
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from trellis2_server.errors import InputError, TooLargeError

_LONG: Final = re.compile(rb'"(data:[^",\\]{0,128};base64),([A-Za-z0-9+/=]{256,})"')
_WHITE_SPACE: Final = b" \t\r\n\f\v"
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
_SCHEME: Final = "data:"
#: Parameter of a URI whose content was cut out of the JSON: the number of the content.
_CUT_OUT: Final = "data:;cut-out="
#: Characters of a file name that an error message repeats.
_MAX_NAME: Final = 100


class DataUris:
    """Decodes the `data:` URIs of one file.

    Args:
        max_bytes: maximum size of all their content. Several can refer to the same.
    """

    def __init__(self, max_bytes: int) -> None:
        self._contents: list[memoryview] = []
        self._left = max_bytes

    def cut_out(self, text: bytes) -> bytes:
        """Return JSON text in which long base64 content is replaced by its number.

        Such a file can be larger than JSON that may be parsed, and most of the content is textures
        that nobody reads.
        """
        whole = memoryview(text)

        def replacement(found: re.Match[bytes]) -> bytes:
            self._contents.append(whole[found.start(2) : found.end(2)])
            return f'"{_CUT_OUT}{len(self._contents) - 1}"'.encode()

        return _LONG.sub(replacement, text)

    @staticmethod
    def is_data(uri: object) -> bool:
        """Whether a URI contains its data."""
        return isinstance(uri, str) and uri[: len(_SCHEME)].lower() == _SCHEME

    def decode(self, uri: object, name: str) -> bytes:
        """Return the content of a URI.

        Args:
            uri: a value of the JSON.
            name: of the object that has the URI, for error messages.

        Raises:
            InputError: it refers to another file, or its content is not valid.
            TooLargeError: the content of all URIs exceeds `max_bytes`.
        """
        if not isinstance(uri, str):
            raise InputError(f"mesh: the uri of {name} is not text")
        if not self.is_data(uri):
            file = uri[:_MAX_NAME].encode("ascii", "backslashreplace").decode()
            raise InputError(
                f"mesh: the data of {name} is in another file, {file!r}: the mesh refers to other "
                "files; send a GLB, which contains all data"
            )
        try:
            content = self._decode_data(uri)
        except (ValueError, IndexError) as error:  # binascii.Error is a ValueError
            raise InputError(f"mesh: the data: URI of {name} is not valid") from error
        self._left -= len(content)
        if self._left < 0:
            raise TooLargeError("mesh: the data: URIs have more content than the file has bytes")
        return content

    def _decode_data(self, uri: str) -> bytes:
        if uri.startswith(_CUT_OUT):
            return self._decode_base64(self._contents[int(uri[len(_CUT_OUT) :])])
        head, comma, text = uri.partition(",")
        if not comma:
            raise ValueError(uri[:_MAX_NAME])
        content = unquote_to_bytes(text)
        return self._decode_base64(content) if head.lower().endswith(";base64") else content

    @staticmethod
    def _decode_base64(text: bytes | memoryview) -> bytes:
        digits = bytes(text).translate(_URL_SAFE, _WHITE_SPACE).rstrip(b"=")
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
