"""Messages between server and decoder, at their limits and over them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from trellis2_server.decoders import messages
from trellis2_server.decoders.messages import (
    HEADER,
    ProtocolError,
    check_array,
    decode_message,
    encode_message,
    message_length,
    read_specs,
    specify_arrays,
)

LIMIT = 262_144


def test_a_message_arrives_as_it_was_sent() -> None:
    message = {"a": [1, 2.5, None, True], "ü": {"b": "\U0001f600"}}
    encoded = encode_message(message)
    assert message_length(encoded[: HEADER.size]) == len(encoded) - HEADER.size
    assert decode_message(encoded[HEADER.size :]) == message
    with pytest.raises(ValueError, match="Out of range float"):
        encode_message({"a": float("nan")})


def test_a_message_may_have_256_kib_and_no_more() -> None:
    whole = encode_message({"a": "x" * (LIMIT - len('{"a":""}'))})
    assert len(whole) == LIMIT + 4
    assert message_length(whole[:4]) == LIMIT
    with pytest.raises(ValueError, match="too long"):
        encode_message({"a": "x" * (LIMIT - len('{"a":""}') + 1)})
    with pytest.raises(ProtocolError, match="too long"):
        message_length(HEADER.pack(LIMIT + 1))
    assert HEADER.size == 4


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"1", b"{", b"\xff", b'"a"', b'{"a": "\\ud800"}', b"[" * 100_000]
)
def test_what_is_no_object_is_no_message(text: bytes) -> None:
    with pytest.raises(ProtocolError, match="a message is no"):
        decode_message(text)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int32", "uint32", "int64", "float32", "float64"]
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4, 5)])
def test_an_array_of_each_type_and_shape_is_described(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype)
    sent = json.loads(json.dumps(specify_arrays({"a": array, "b": array})))
    first, second = read_specs(sent, 2 * array.nbytes)
    assert first == ("a", array.dtype, shape, array.nbytes)
    assert second.name == "b"
    if array.nbytes:
        with pytest.raises(ProtocolError, match="the arrays are too large"):
            read_specs(sent, 2 * array.nbytes - 1)


@pytest.mark.parametrize(
    "entry",
    [["a", "object", [1]], ["a", "float16", [1]], ["a", "uint8", [-1]], ["a", "uint8", [1.0]],
     ["a", "uint8", [True]], ["a", "uint8", [1] * 5], ["a", "uint8", 1], ["a", "uint8"],
     [1, "uint8", [1]], ["a", "uint8", [2**40 + 1]], ["a", "uint8", [2**20, 2**21]],
     ["a", "uint8", [2**40 + 1, 0]], {"a": 1}, None],
    ids=range(14),
)  # fmt: skip
def test_any_other_array_is_refused(entry: Any) -> None:
    with pytest.raises(ProtocolError, match="type that is not allowed"):
        read_specs([entry], 2**50)


def test_arrays_have_limits_of_their_number_and_values() -> None:
    assert len(read_specs([["a", "uint8", [1]]] * 64, 64)) == 64
    for value in ([["a", "uint8", [1]]] * 65, {"a": 1}, None, "text"):
        with pytest.raises(ProtocolError, match="not described"):
            read_specs(value, 100)
    assert read_specs([["a", "uint8", [2**40]]], 2**40)[0].nbytes == 2**40
    assert read_specs([["a", "uint8", [2**40, 0]]], 0)[0].nbytes == 0


def test_truth_values_are_one_byte_of_two() -> None:
    check_array(np.array([True, False]))
    check_array(np.zeros(0, bool))
    check_array(np.uint8([2]))
    with pytest.raises(ProtocolError, match="values that are not allowed"):
        check_array(np.uint8([0, 1, 2]).view(bool))


def test_an_error_is_raised_as_the_nearest_of_its_kind() -> None:
    kinds = list(messages.TASK_ERRORS.values())
    for at, kind in enumerate(kinds):
        assert not any(issubclass(later, kind) for later in kinds[at + 1 :])
        assert messages.TASK_ERRORS[kind.__name__] is kind
