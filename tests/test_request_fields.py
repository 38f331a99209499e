from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from trellis2_server.request_fields import (
    BY_NAME,
    EXTENSIONS,
    FIELDS,
    FileType,
    Group,
    Kind,
    RequestField,
)

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_a_declaration_is_complete(field: RequestField) -> None:
    assert field.kind in get_args(Kind)
    assert field.group in get_args(Group)
    assert field.description.endswith(".")
    assert 3 < len(field.summary) < 100
    assert not field.summary.endswith(".")
    assert not (field.bounds and field.choices)
    if field.kind == "integer":
        assert field.bounds or field.choices
    if field.bounds:
        low, high = field.bounds
        assert low < high
        if field.kind != "integers":
            assert field.default in {None, field.word} or low <= field.default <= high
    assert field.word is None or (field.kind == "number" and field.bounds)
    if field.choices:
        assert field.default is None or field.default in field.choices


def test_no_name_or_alias_is_declared_twice() -> None:
    names = [name for field in FIELDS for name in (field.name, *field.aliases)]
    assert len(names) == len(set(names))
    assert BY_NAME["seed"] is FIELDS[0]


def test_a_summary_is_the_first_sentence_as_a_phrase() -> None:
    seed = BY_NAME["seed"]
    assert seed.summary == "random seed; -1 picks a random one"
    assert dataclasses.replace(seed, description="GLB of 1.0 m.").summary == "GLB of 1.0 m"
    assert BY_NAME["alpha_mode"].summary == "glTF alpha mode"


@pytest.mark.parametrize(
    ("name", "applies"),
    [
        ("seed", (True, True, True, True)),
        ("geo_rotation", (False, False, True, True)),
        ("up_axis", (True, True, True, True)),
        ("depth", (True, True, False, False)),
        ("back", (True, True, True, True)),
        ("uv", (False, False, True, True)),
        ("remesh", (True, True, False, False)),
        ("compress", (True, False, True, False)),
    ],
)
def test_a_field_says_which_requests_it_applies_to(name: str, applies: tuple[bool, ...]) -> None:
    kinds = [(has_mesh, file_type) for has_mesh in (False, True) for file_type in ("glb", "stl")]
    field = BY_NAME[name]
    assert applies == tuple(
        field.applies(has_mesh=has_mesh, file_type=file_type) for has_mesh, file_type in kinds
    )


def test_every_file_type_has_an_extension() -> None:
    assert tuple(EXTENSIONS) == get_args(FileType)


def test_the_declaration_needs_the_standard_library_only() -> None:
    code = (
        "import sys, trellis2_server.request_fields;"
        "print(*sorted(m for m in sys.modules if m.startswith('trellis2_server.')),"
        " *(m for m in ('pydantic', 'numpy') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "trellis2_server.request_fields"
