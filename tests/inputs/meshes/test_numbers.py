from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis2_server.inputs.meshes.numbers import (
    Words,
    are_words,
    corners,
    decimals,
    find_words,
    integers,
)

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def words(text: str) -> Words:
    return find_words(np.frombuffer(text.encode(), np.uint8))


@given(st.text(st.sampled_from("0159.+-eE \n\tx,"), max_size=24))
def test_numbers_are_those_of_python(text: str) -> None:
    found = decimals(words(text))
    if all(NUMBER.fullmatch(word) for word in text.split()):
        assert found is not None
        assert found == pytest.approx([float(word) for word in text.split()], rel=3e-16, abs=0)
    else:
        assert found is None


@pytest.mark.parametrize("text", [".5 .25", "1. 2.", "-.5 +.25", "1e2 3E4", ".5 7 .25", "1.e1 .5"])
def test_a_point_may_be_the_first_and_the_last_of_a_word(text: str) -> None:
    found = decimals(words(text))
    assert found is not None
    assert found.tolist() == [float(word) for word in text.split()]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), max_size=20))
def test_numbers_of_float32_come_back_as_they_were(values: list[float]) -> None:
    for form in ("{:.9g}", "{!r}", "{:.17e}", "{:.60f}"):
        found = decimals(words(" ".join(form.format(value) for value in values)))
        assert found is not None
        if form == "{:.60f}":
            np.testing.assert_allclose(found, values, rtol=1e-6, atol=1e-45)
        else:
            assert found.astype(np.float32).tolist() == values


@pytest.mark.parametrize(
    "word",
    ["9" * 18, "1" * 19, "123456789.123456789", "." + "1" * 30, "1e0000000000000000000000000002",
     "1e-9999999999999999999", "12345678e8", "-87654321.12345678", "0." + "0" * 25 + "7e25"],
)  # fmt: skip
def test_numbers_of_many_digits_are_those_of_python(word: str) -> None:
    found = decimals(words(f"1 {word} -2"))
    assert found is not None
    assert found == pytest.approx([1, float(word), -2], rel=3e-16, abs=0)


def test_numbers_are_read_among_other_words() -> None:
    every = words("vertex 1.5 -2 e outer 3e1 .5E-1 e")
    places = [1, 2, 5, 6]
    found = decimals(Words(every.text, every.starts[places], every.ends[places]))
    assert found is not None
    assert found.tolist() == [1.5, -2, 30, 0.05]


@given(st.lists(st.integers(-(10**18) + 1, 10**18 - 1), max_size=20))
def test_integers_are_those_of_python(values: list[int]) -> None:
    found = integers(words(" ".join(map(str, values))))
    assert found is not None
    assert found.tolist() == values


@pytest.mark.parametrize("text", ["1 " + "9" * 19, "7 -" + "9" * 19, "1" * 40 + " 2"])
def test_integers_that_do_not_fit_are_none(text: str) -> None:
    assert integers(words(text)) is None


@pytest.mark.parametrize(
    ("text", "is_equal"),
    [("a endfacet a endfacet", True), ("a endfacets", False), ("a endfaceT", False),
     ("b endfacet", False), ("a endface", False)],
)  # fmt: skip
def test_words_are_compared_whole(text: str, *, is_equal: bool) -> None:
    assert are_words(words(text), [b"a", b"endfacet"]) is is_equal


@given(st.text(st.sampled_from("0159.- \n/"), max_size=24))
def test_corners_are_those_of_their_grammar(text: str) -> None:
    grammar = re.compile(r"[-]?\d+(/([-]?\d+)?(/([-]?\d+)?)?)?")
    matches = [grammar.fullmatch(word) for word in text.split()]
    found = corners(words(text))
    if not all(matches):
        assert found is None
        return
    assert found is not None
    assert found.vertices.tolist() == [int(word.split("/")[0]) for word in text.split()]
    expected = [int(match[4] or 0) for match in matches if match]
    assert (found.normals is None and not any(expected)) or (
        found.normals is not None and found.normals.tolist() == expected
    )


def test_corners_of_different_forms_stand_beside_each_other() -> None:
    found = corners(words("1/2/3 4//5 6/7 8 9/10/ -1/-2/-3"), with_textures=True)
    assert found is not None
    assert found.vertices.tolist() == [1, 4, 6, 8, 9, -1]
    assert found.textures is not None
    assert found.textures.tolist() == [2, 0, 7, 0, 10, -2]
    assert found.normals is not None
    assert found.normals.tolist() == [3, 5, 0, 0, 0, -3]


@pytest.mark.parametrize("read", [decimals, integers, corners])
@pytest.mark.parametrize(
    "word", ["nan", "inf", "1_0", "0x1", "1\0", "\xb2", "--1", "+-1", "1-2", "-", "/", "1//2/3"]
)
def test_other_words_are_no_numbers(word: str, read: Callable[[Words], object]) -> None:
    assert read(words(f"1 {word} 2")) is None


def test_control_characters_do_not_separate_words() -> None:
    assert len(words("1\t2\n3\v4\f5\r6 7").starts) == 7
    assert len(words("1\x002\x1f3\x7f4").starts) == 1
