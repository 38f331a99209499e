from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from trellis2_server.client import OPTIONS, Options, UsageError
from trellis2_server.client.options import Option, check_names
from trellis2_server.request_fields import BY_NAME, FIELDS

PLAIN = {"integer": int, "number": float, "boolean": bool, "string": str}


def test_each_field_but_four_is_an_option() -> None:
    names = [option.name for option in OPTIONS]
    assert len(names) == len(set(names))
    assert set(names) == {field.name for field in FIELDS} - {
        "texture",
        "type",
        "preset",
        "no_rembg",
    }
    seed = BY_NAME["seed"]
    assert OPTIONS[0] == Option("seed", "integer", seed.summary, seed.bounds)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_the_type_of_an_option_is_declared_as_its_field_is(option: Option) -> None:
    hints = get_type_hints(Options)
    assert hints.keys() == {each.name for each in OPTIONS}
    hint: Any = hints[option.name]
    if option.kind == "interval":
        assert hint == tuple[float, float]
    elif option.kind == "integers":
        assert hint == Sequence[int]
    elif option.choices:
        choices = [word for part in (hint, *get_args(hint)) for word in get_args(part)]
        assert [choice for choice in choices if not get_origin(choice)] == list(option.choices)
    elif option.word:
        assert get_args(hint) == (PLAIN[option.kind], Literal[option.word])
    else:
        assert hint is PLAIN[option.kind]


def test_null_is_a_word_on_the_command_line() -> None:
    compress = next(option for option in OPTIONS if option.name == "compress")
    assert compress.choices == ("meshopt", "draco", "none")


def test_an_unknown_name_is_refused_with_a_similar_one() -> None:
    check_names({"seed": 1, "texture_size": 512})
    with pytest.raises(UsageError, match=r"^texture_siz: no such option; texture_size\?$"):
        check_names({"texture_siz": 512})
    with pytest.raises(UsageError, match=r"^xyzzy: no such option$"):
        check_names({"xyzzy": 1})
