"""What server and decoder agree on: messages, the types of arrays, tasks, the errors of tasks.

A message is its length, 4 bytes, and JSON.

Does not know: how bytes are moved, what a message means.
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import numpy as np

from trellis2_server import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    #: JSON values and arrays.
    Result = tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]
    #: Gets the bytes of a file, and arguments, which are JSON values.
    Task = Callable[[memoryview, Mapping[str, Any]], Result]

#: Maximum length of the JSON. Parsing it holds the interpreter lock for some milliseconds; long
#: texts are sent as arrays.
MAX_MESSAGE_BYTES: Final = 2**18
#: Maximum number of arrays of one result.
MAX_ARRAYS: Final = 64
HEADER: Final = struct.Struct("<I")
#: Errors of tasks that the server raises again, by name; each after those that derive from it.
TASK_ERRORS: Final[dict[str, type[errors.ServerError]]] = {
    kind.__name__: kind
    for kind in (
        errors.TooLargeError, errors.InputError, errors.MissingPackageError,
        errors.OutOfMemoryError, errors.EngineError,
    )
}  # fmt: skip

#: Types whose bytes are values, whatever they are; but see `check_array`.
_DTYPES: Final = frozenset({"bool", "uint8", "int32", "uint32", "int64", "float32", "float64"})
_MAX_DIMENSIONS: Final = 4
#: Maximum number of values of an array whose dimensions of 0 counted as 1: NumPy refuses more.
_MAX_VALUES: Final = 2**40


class ProtocolError(Exception):
    """The other side sent something that is no message."""


class ArraySpec(NamedTuple):
    """Type of one array.

    Attributes:
        name: its name in the result.
        dtype: its type, in the machine's byte order.
        shape: its dimensions.
        nbytes: its size, bytes.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int


def encode_message(message: Mapping[str, object]) -> bytes:
    """Return the bytes of a message.

    Raises:
        ValueError: it is too long, or holds a value that JSON does not have.
    """
    text = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > MAX_MESSAGE_BYTES:
        raise ValueError("the message is too long")
    return HEADER.pack(len(text)) + text


def message_length(header: bytes) -> int:
    """Return the length of the JSON that follows.

    Raises:
        ProtocolError: it is over the limit.
    """
    (length,) = HEADER.unpack(header)
    if length > MAX_MESSAGE_BYTES:
        raise ProtocolError("a message is too long")
    return length


def decode_message(text: bytes | bytearray) -> dict[str, Any]:
    """Return the message of that JSON.

    Raises:
        ProtocolError: it is no JSON object, or has text that UTF-8 cannot hold.
    """
    try:
        message: object = json.loads(text.decode())
        # Half a surrogate pair would make a response of the server fail.
        json.dumps(message, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a message is no JSON") from error
    if not isinstance(message, dict):
        raise ProtocolError("a message is no object")
    return cast("dict[str, Any]", message)


def specify_arrays(arrays: Mapping[str, NDArray[Any]]) -> list[list[object]]:
    """Return the types of arrays as JSON."""
    return [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]


def read_specs(value: object, max_bytes: int) -> list[ArraySpec]:
    """Return the types of arrays from JSON.

    Args:
        value: from `specify_arrays`, on the other side.
        max_bytes: maximum size of all arrays.

    Raises:
        ProtocolError: a type is not allowed, or the arrays are too large.
    """
    if not isinstance(value, list) or len(cast("list[object]", value)) > MAX_ARRAYS:
        raise ProtocolError("the arrays are not described")
    specs = [_read_spec(entry) for entry in cast("list[object]", value)]
    if sum(spec.nbytes for spec in specs) > max_bytes:
        raise ProtocolError("the arrays are too large")
    return specs


def check_array(array: NDArray[Any]) -> None:
    """Check the bytes of an array of the other side.

    Raises:
        ProtocolError: it is of type bool, and has values that are neither true nor false.
    """
    if array.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
        raise ProtocolError("an array has values that are not allowed")


def _read_spec(entry: object) -> ArraySpec:
    match entry:
        case [str(name), str(dtype), [*sizes]] if (
            dtype in _DTYPES
            and len(cast("Sequence[object]", sizes)) <= _MAX_DIMENSIONS
            and all(type(size) is int and size >= 0 for size in sizes)
            and math.prod(max(size, 1) for size in cast("Sequence[int]", sizes)) <= _MAX_VALUES
        ):
            shape = tuple(cast("Sequence[int]", sizes))
            kind = np.dtype(dtype)
            return ArraySpec(name, kind, shape, math.prod(shape) * kind.itemsize)
        case _:
            raise ProtocolError("an array has a type that is not allowed")
