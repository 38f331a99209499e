"""`solid` and `min_wall_mm`: what they set, and what they do not go with."""

from __future__ import annotations

import pytest

from trellis2_server.errors import InputError
from trellis2_server.parameters import Options, fields_of, read_export, read_options
from trellis2_server.settings import Settings

DEFAULTS = Settings()
MESH = "0" * 32


def options(mesh: str | None = None, **raw: object) -> Options:
    return read_options(raw, DEFAULTS, mesh=mesh)


def test_a_solid_is_remeshed_and_not_compressed() -> None:
    made = options(solid="true")
    assert (made.solid, made.remesh, made.compress, made.min_wall_mm) == (True, True, None, 0)
    configured = Settings.model_validate({"export": {"compress": "draco", "remesh": False}})
    assert read_options({"solid": 1}, configured) == made
    assert options() == options(solid=False) == options(min_wall_mm=0)
    assert "solid" not in repr(options())
    assert options() != made


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"type": "stl"}, 2),
        ({"type": "stl", "size_mm": 50}, 4),
        ({"type": "3mf", "size_mm": 0}, 2),
        ({"type": "obj"}, 2),
        ({"type": "obj", "size_mm": 1000}, 0.2),
        ({}, 2),
        ({"size_m": 0.2}, 1),
    ],
)
def test_the_least_thickness_is_one_at_the_size_of_the_file(
    size: dict[str, object], expected: float
) -> None:
    raw = {"solid": True, "min_wall_mm": "2", **size}
    assert read_options(raw, DEFAULTS).min_wall_mm == expected


@pytest.mark.parametrize(
    ("raw", "mesh", "named"),
    [
        ({"solid": True}, MESH, ("solid", "mesh")),
        ({"solid": True, "remesh": False}, None, ("solid", "remesh")),
        ({"solid": True, "compress": "meshopt"}, None, ("solid", "compress")),
        ({"min_wall_mm": 1}, None, ("min_wall_mm", "solid")),
        ({"min_wall_mm": 1, "solid": False}, None, ("min_wall_mm", "solid")),
        ({"min_wall_mm": 1}, MESH, ("min_wall_mm", "solid")),
    ],
)
def test_fields_that_contradict_each_other_are_both_named(
    raw: dict[str, object], mesh: str | None, named: tuple[str, str]
) -> None:
    for read in (
        lambda: read_options(raw, DEFAULTS, mesh=mesh),
        lambda: read_export(raw, options(mesh), DEFAULTS),
    ):
        with pytest.raises(InputError) as caught:
            read()
        assert str(caught.value).startswith(f"{named[0]}: ")
        assert named[1] in str(caught.value)


def test_an_export_makes_a_solid_of_any_job_and_the_other_way_round() -> None:
    plain, solid = options(compress="draco"), options(solid=True, min_wall_mm=2)
    made = read_export(
        {"solid": True, "type": "stl", "size_mm": 200, "min_wall_mm": 2}, plain, DEFAULTS
    )
    assert (made.solid, made.remesh, made.compress, made.min_wall_mm) == (True, True, None, 1)
    assert read_export({}, solid, DEFAULTS) == solid
    back = read_export({"solid": False, "remesh": False}, solid, DEFAULTS)
    assert (back.solid, back.remesh, back.min_wall_mm) == (False, False, 0)
    with pytest.raises(InputError, match=r"^solid: .*remesh"):
        read_export({"remesh": False}, solid, DEFAULTS)


def test_the_fields_of_a_solid_repeat_it() -> None:
    made = options(solid=True, min_wall_mm=1.5, type="stl", size_mm=40)
    assert read_options(fields_of(made), DEFAULTS) == made
