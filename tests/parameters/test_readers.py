from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis2_server.errors import InputError
from trellis2_server.parameters import readers
from trellis2_server.request_fields import BY_NAME, FIELDS, MAX_CONCATENATED, RequestField

if TYPE_CHECKING:
    from trellis2_server.request_fields import MultiImage


def test_each_reader_of_a_field_is_of_a_declared_one() -> None:
    assert readers._BY_FIELD.keys() <= BY_NAME.keys()


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_each_value_that_the_declaration_allows_is_read_as_it_is(field: RequestField) -> None:
    values: tuple[Any, ...] = field.choices or field.bounds or (True, False)
    if field.kind == "interval":
        values = ([0, 1], [0.25, 0.5], [0.5, 0.5])
    elif field.kind == "integers":
        values = ([5000, 100], [3000, 2000, 1000])
    elif field.kind == "number" and not field.bounds:
        values = (0, 90, -90)
    for value in values:
        read = readers.read(field, field.name, value)
        assert read == (tuple(value) if isinstance(value, list) else value)
        if not isinstance(value, list):
            assert readers.read(field, field.name, f" {value} ".upper()) == read


@pytest.mark.parametrize("value", [[1], [], {"a": 1}, {}])
def test_a_list_or_an_object_is_no_single_value(value: object) -> None:
    for name in ("seed", "texture", "type", "depth"):
        with pytest.raises(InputError, match=f"^{name}: must be a single value$"):
            readers.read(BY_NAME[name], name, value)


@pytest.mark.parametrize("wanted", ["auto", "stochastic", "concat"])
def test_how_pictures_are_used_matters_with_several_of_them_only(wanted: MultiImage) -> None:
    assert readers.multi_image(wanted, 1) == "auto"
    assert readers.multi_image(wanted, 2) == wanted
    assert readers.multi_image(wanted, MAX_CONCATENATED) == wanted
    if wanted == "concat":
        with pytest.raises(InputError, match=r"^multi_image: concat takes at most 4 pictures"):
            readers.multi_image(wanted, MAX_CONCATENATED + 1)
    else:
        assert readers.multi_image(wanted, MAX_CONCATENATED + 1) == wanted


def test_null_of_a_nullable_field_has_words_too() -> None:
    compress = BY_NAME["compress"]
    for word in ("", "none", "NULL", "false"):
        assert readers.read(compress, "compress", word) is None
    with pytest.raises(InputError, match="compress: must be one of meshopt, draco"):
        readers.read(replace(compress, is_nullable=False), "compress", "none")


@pytest.mark.parametrize("value", ["auto", " AUTO ", "Auto"])
def test_a_number_may_have_a_word_beside_it(value: str) -> None:
    assert readers.read(BY_NAME["depth"], "depth", value) == "auto"


@pytest.mark.parametrize(
    ("value", "read"),
    [(0, 0.0), ("0.25", 0.25), (1, 1.0), (1.001, 1.0), (-0.001, 0.0), ("1e9", 1.0)],
)
def test_a_depth_out_of_bounds_is_clamped(value: object, read: float) -> None:
    depth = readers.read(BY_NAME["depth"], "depth", value)
    assert (type(depth), depth) == (float, read)


@pytest.mark.parametrize("value", ["deep", "automatic", "", True, "nan", float("inf"), [0.5], {}])
def test_a_depth_that_is_neither_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"^depth: "):
        readers.read(BY_NAME["depth"], "depth", value)


@pytest.mark.parametrize("value", ["both", "", True, 1, ["fill"]])
def test_a_back_of_another_kind_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"^back: must be"):
        readers.read(BY_NAME["back"], "back", value)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_texture_size_is_the_nearest_by_ratio(wanted: float) -> None:
    field = BY_NAME["texture_size"]
    read = readers.read(field, "texture_size", wanted)
    assert read in field.choices
    if 256 <= wanted <= 8192:
        assert 2**-0.5 <= read / wanted <= 2**0.5 + 1e-9


def test_the_name_that_the_request_uses_is_in_the_error() -> None:
    with pytest.raises(InputError, match=r"^face_count: must be a number$"):
        readers.read(BY_NAME["decimation_target"], "face_count", None)
