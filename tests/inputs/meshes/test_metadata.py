from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis2_server.inputs.meshes.metadata import (
    MAX_DEPTH,
    MAX_EXTRAS_BYTES,
    MAX_NAMES_BYTES,
    MetadataFilter,
    is_shallow,
    json_text,
)

#: What Python's JSON parser returns, among it what strict JSON cannot hold.
PARSED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=20,
)


@given(PARSED)
def test_kept_extras_are_strict_json_and_what_was_valid_is_unchanged(value: Any) -> None:
    kept = MetadataFilter().extras(value)
    assert json_text(kept) is not None
    if json_text(value) is not None and is_shallow(value):
        assert kept is value


def test_what_json_cannot_hold_is_replaced() -> None:
    value = {"a\ud83d": [float("nan"), float("-inf"), "\udc00b", 1.5, None, True]}
    assert MetadataFilter().extras(value) == {"a\ufffd": [None, None, "\ufffdb", 1.5, None, True]}
    assert MetadataFilter().name("tree \ud83d") == "tree \ufffd"


@pytest.mark.parametrize("value", [None, 5, ["a"], {"a": 1}])
def test_only_text_is_a_name(value: object) -> None:
    assert MetadataFilter().name(value) is None


def test_names_and_extras_are_kept_up_to_their_limits() -> None:
    kept = MetadataFilter()
    assert kept.name("a" * (MAX_NAMES_BYTES - 10)) is not None
    assert kept.name("b" * 20) is None
    assert kept.name("short") == "short"
    assert kept.extras(["c" * (MAX_EXTRAS_BYTES - 10)]) is not None
    assert kept.extras(["d" * 20]) is None
    assert kept.extras([1]) == [1]


def test_deep_extras_are_left_out() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert MetadataFilter().extras(value) is value
    assert MetadataFilter().extras({"a": value}) is None
    deep = json.loads("[" * 900 + "]" * 900)
    assert MetadataFilter().extras(deep) is None
