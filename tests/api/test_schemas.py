"""JSON Schemas of fields, as clients that generate forms and code read them."""

from __future__ import annotations

from typing import Any

import pytest

from trellis2_server.api.schemas import field_schema, schema
from trellis2_server.request_fields import BY_NAME, FIELDS

SHARE = {"type": "number", "minimum": 0, "maximum": 1}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "tex_guidance_interval",
            {"type": "array", "items": SHARE, "minItems": 2, "maxItems": 2},
        ),
        (
            "lods",
            {
                "type": "array",
                "items": {"type": "integer", "minimum": 100, "maximum": 16_777_216},
                "minItems": 2,
                "maxItems": 8,
            },
        ),
        ("texture", {"type": "boolean"}),
        ("geo_rotation", {"type": "number"}),
        ("resolution", {"type": "integer", "enum": [512, 1024, 1536]}),
        ("seed", {"type": "integer", "minimum": -1, "maximum": 2**32 - 1}),
        ("size_mm", {"type": "number", "minimum": 0.0, "maximum": 100_000.0}),
        ("compress", {"type": ["string", "null"], "enum": ["meshopt", "draco", None]}),
    ],
)
def test_a_field_has_the_type_and_the_limits_of_its_values(
    name: str, expected: dict[str, Any]
) -> None:
    field = BY_NAME[name]
    assert field_schema(field) == expected | {"description": field.description}


def test_a_servers_maximum_limits_numbers_and_choices() -> None:
    assert field_schema(BY_NAME["decimation_target"], 5000)["maximum"] == 5000
    assert field_schema(BY_NAME["texture_size"], 1024)["enum"] == [256, 512, 1024]


def test_a_body_has_the_fields_that_are_named() -> None:
    known = schema("*", "image", required=["image"])
    assert set(known["properties"]) == {"image", *(field.name for field in FIELDS)}
    assert known["required"] == ["image"]
    assert "anyOf" not in known
    fronts = schema("image", needs_picture=True)
    assert "required" not in fronts
    assert {"required": ["image"]} in fronts["anyOf"]
