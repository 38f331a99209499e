"""`MeshoptViews`: the content of buffer views that meshopt compresses.

Khronos, EXT_meshopt_compression and KHR_meshopt_compression.

Does not know: where the compressed bytes are, what the content means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError, MissingPackageError, TooLargeError
from trellis2_server.inputs.meshes.scene import check_count

if TYPE_CHECKING:
    from types import ModuleType

_KHR: Final = "KHR_meshopt_compression"
_EXTENSIONS: Final = (_KHR, "EXT_meshopt_compression")
_MAX_STRIDE: Final = 256
#: Sizes of rows that a filter takes, bytes. The others take any.
_FILTER_STRIDES: Final = {"OCTAHEDRAL": (4, 8), "QUATERNION": (8,), "COLOR": (4, 8)}
_FILTERS: Final = ("NONE", "OCTAHEDRAL", "QUATERNION", "EXPONENTIAL", "COLOR")
#: Bytes that all views of a file may have, however small it is, and for each of its bytes.
#: Attributes that repeat themselves compress without end; those of models about four times.
_FREE_BYTES: Final = 16_777_216
_BYTES_PER_BYTE: Final = 16
#: Some programs pad what they compress.
_PADDING: Final = 4


def compression_of(view: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a buffer view says of its compression; None if it has none."""
    extensions = view.get("extensions", {})
    return next((extensions[name] for name in _EXTENSIONS if name in extensions), None)


def import_meshopt() -> ModuleType | None:
    """Return the package `meshopt`, or None if it is not installed."""
    try:
        import meshopt
    except ImportError:
        return None
    return meshopt


class MeshoptViews:
    """Decompresses buffer views of one file.

    Args:
        file_bytes: size of the file: what is decompressed is in proportion to it.
    """

    def __init__(self, file_bytes: int) -> None:
        self._limit = _FREE_BYTES + _BYTES_PER_BYTE * file_bytes
        self._left = self._limit

    def decompress(self, view: dict[str, Any], content: memoryview, name: str) -> memoryview:
        """Return the content of a view.

        Args:
            view: of the JSON, with the extension.
            content: compressed bytes.
            name: of the view, for error messages.

        Raises:
            InputError: the bytes are damaged, or do not fit to what the JSON says of them.
            TooLargeError: all views of the file would be too large.
            MissingPackageError: `meshopt` is not installed.
        """
        about = compression_of(view) or {}
        count, stride = check_count(about.get("count"), 1), check_count(about.get("byteStride"), 1)
        mode, kind = about.get("mode"), about.get("filter", "NONE")
        _check_rows(view, count, stride, mode, kind, name)
        self._left -= count * stride
        if self._left < 0:
            raise TooLargeError(
                "mesh: the compressed buffer views of the GLB have over "
                f"{self._limit} bytes when decompressed"
            )
        meshopt = import_meshopt()
        if meshopt is None:
            raise MissingPackageError(
                "a mesh that meshopt compresses needs a package: run `pip install meshopt` "
                "(Python 3.11 or later)."
            )
        try:
            rows = meshopt.decode_gltf_buffer(content, count, stride, mode, kind)
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"mesh: the meshopt compression of {name} of the GLB is damaged"
            ) from error
        content_bytes: Any = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
        return memoryview(content_bytes)


def _check_rows(  # noqa: PLR0913, PLR0917 - what the extension says of a view
    view: dict[str, Any], count: int, stride: int, mode: object, kind: object, name: str
) -> None:
    """Check that rows are as the extension allows, and as the view declares."""
    if mode == "ATTRIBUTES":
        is_valid = stride <= _MAX_STRIDE and stride % 4 == 0 and kind in _FILTERS
        is_valid = is_valid and stride in _FILTER_STRIDES.get(str(kind), (stride,))
        # Only the later extension has this filter.
        is_valid = is_valid and (kind != "COLOR" or _KHR in view["extensions"])
    elif mode in {"TRIANGLES", "INDICES"}:
        is_valid = stride in {2, 4} and kind == "NONE" and (mode == "INDICES" or count % 3 == 0)
    else:
        is_valid = False
    if not is_valid:
        raise InputError(f"mesh: the meshopt compression of {name} of the GLB is not valid")
    declared = check_count(view.get("byteLength"))
    if not 0 <= declared - count * stride < _PADDING or view.get("byteStride", stride) != stride:
        raise InputError(
            f"mesh: {name} of the GLB declares {declared} bytes, but decompressed it has {count} "
            f"rows of {stride} bytes"
        )
