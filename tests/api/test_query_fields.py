"""Fields in the query, beside those of the body."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.requests_in_parts import FORM, form, parse
from tests.support.server import encoded, picture
from trellis2_server.api.query_fields import add_query
from trellis2_server.errors import InputError

IMAGE = encoded(picture())
BODIES: dict[str, tuple[bytes, str]] = {
    "json": (json.dumps({"image": IMAGE}).encode(), "application/json"),
    "form": (form(('name="image"; filename="a"', picture())), FORM),
    "urlencoded": (urlencode({"image": IMAGE}).encode(), "application/x-www-form-urlencoded"),
    "picture": (picture(), "image/png"),
}


@pytest.mark.parametrize("kind", BODIES)
def test_fields_of_the_query_count_beside_any_body(kind: str) -> None:
    content, content_type = BODIES[kind]
    parsed = parse([content], content_type, "seed=7&type=stl&unknown=x")
    assert parsed.picture == picture()
    assert parsed.fields == {"seed": "7", "type": "stl", "unknown": "x"}


def test_a_request_may_have_nothing_but_a_query() -> None:
    parsed = parse([], query="image_hash=" + "0" * 32)
    assert (parsed.fields, parsed.picture) == ({"image_hash": "0" * 32}, None)
    tiny = encoded(b"tiny")
    assert parse([], query=urlencode({"image": tiny, "seed": 7})).picture == b"tiny"
    with pytest.raises(InputError, match="the body is empty"):
        parse([])


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ({"seed": 7}, {"seed": "7"}),
        ({"texture": True}, {"texture": "TRUE"}),
        ({"decimation_target": 5000}, {"face_count": "5000.0"}),
        ({"tex_guidance_interval": [0, 1]}, {"tex_guidance_interval": "0,1"}),
        ({"image_hash": "AB"}, {"image_hash": "ab"}),
        ({"seed": None}, {"seed": "7"}),
    ],
)
def test_what_both_say_may_be_written_in_two_ways(
    body: dict[str, object], query: dict[str, object]
) -> None:
    add_query(body, query)


@pytest.mark.parametrize(
    ("body", "query", "name"),
    [
        ({"seed": 7}, {"seed": "8"}, "seed"),
        ({"texture": True}, {"texture": "0"}, "texture"),
        ({"decimation_target": 5000}, {"face_count": "6000"}, "decimation_target"),
        ({"type": "glb"}, {"type": "stl"}, "type"),
        ({"image_hash": "ab"}, {"image_hash": "cd"}, "image_hash"),
    ],
)
def test_a_contradiction_is_refused_with_the_name_of_the_field(
    body: dict[str, object], query: dict[str, object], name: str
) -> None:
    with pytest.raises(InputError, match=f"^{name}: the query says"):
        add_query(body, query)


def test_null_in_a_body_is_absent_only_where_the_query_has_the_field() -> None:
    assert add_query({"seed": None}, {"seed": "7"}) == {"seed": "7"}
    assert add_query({"seed": None}, {"type": "stl"}) == {"seed": None, "type": "stl"}
    assert add_query({"seed": None}, {}) == {"seed": None}


def test_a_file_in_the_query_must_be_that_of_the_body() -> None:
    tiny: Any = {"image": encoded(b"tiny")}
    assert parse([b"tiny"], "image/png", urlencode(tiny)).picture == b"tiny"
    with pytest.raises(InputError, match=r"^image: the query has another one than the body$"):
        parse([picture()], "image/png", urlencode(tiny))
