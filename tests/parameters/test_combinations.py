"""Fields of a request that exclude each other."""

from __future__ import annotations

import pytest

from trellis2_server.errors import InputError
from trellis2_server.parameters import read_export, read_options
from trellis2_server.request_fields import MOST_LEVELS
from trellis2_server.settings import Settings

DEFAULTS = Settings()


@pytest.mark.parametrize(
    ("fields", "other"),
    [
        ({"occlusion": True, "texture": False}, "texture"),
        ({"occlusion": "yes", "type": "stl"}, "type stl"),
        ({"occlusion": True, "type": "ply"}, "type ply"),
        ({"occlusion": True, "type": "obj_zip"}, "type obj_zip"),
        ({"normal_map": True, "texture": False}, "texture"),
        ({"normal_map": True, "type": "3mf"}, "type 3mf"),
        ({"lods": "5000,1000", "texture": False}, "texture"),
        ({"lods": [5000, 1000], "type": "usdz"}, "type usdz"),
        ({"lods": [5000, 1000], "decimation_target": 4000}, "decimation_target"),
        ({"normal_map": True, "compress": "draco"}, "compress: draco"),
    ],
)
def test_fields_that_exclude_each_other_are_refused_by_both_names(
    fields: dict[str, object], other: str
) -> None:
    (name, *_) = fields
    for read in (
        lambda: read_options(fields, DEFAULTS),
        lambda: read_export(fields, read_options({}, DEFAULTS), DEFAULTS),
    ):
        with pytest.raises(InputError, match=f"^{name}: .*{other}"):
            read()
    allowed = read_options({**fields, name: None}, DEFAULTS)
    assert not getattr(allowed, name)


@pytest.mark.parametrize("fields", [{"normal_map": True}, {"lods": [5000, 1000]}])
def test_what_a_mesh_cannot_have_is_refused(fields: dict[str, object]) -> None:
    (name,) = fields
    with pytest.raises(InputError, match=name + ": not with a mesh"):
        read_options(fields, DEFAULTS, mesh="0" * 32)


def test_the_first_level_is_the_number_of_faces() -> None:
    read = read_options({"lods": "20000, 5000,1000"}, DEFAULTS)
    assert (read.lods, read.decimation_target) == ((20_000, 5000, 1000), 20_000)
    again = read_export({"lods": [4000, 200.4]}, read, DEFAULTS)
    assert (again.lods, again.decimation_target) == ((4000, 200), 4000)
    # A number of faces alone is a model without levels.
    single = read_export({"decimation_target": 3000}, read, DEFAULTS)
    assert (single.lods, single.decimation_target) == ((), 3000)
    assert read_export({}, read, DEFAULTS) == read


def test_levels_are_lowered_to_the_servers_maximum() -> None:
    capped = Settings.model_validate(
        {"export": {"max_decimation_target": 10_000, "glb_decimation_target": 10_000}}
    )
    read = read_options({"lods": [50_000, 20_000, 5000]}, capped)
    assert (read.lods, read.decimation_target) == ((10_000, 5000), 10_000)


def test_as_many_levels_as_allowed_are_read() -> None:
    most = tuple(range(1000 * MOST_LEVELS, 0, -1000))
    assert read_options({"lods": most}, DEFAULTS).lods == most


@pytest.mark.parametrize(
    "lods",
    [[5000], [1000, 5000], "many", list(range(1000 * (MOST_LEVELS + 1), 0, -1000)), 7],
)
def test_levels_that_make_no_sense_are_refused(lods: object) -> None:
    with pytest.raises(InputError, match=r"^lods: "):
        read_options({"lods": lods}, DEFAULTS)


def test_maps_that_trellis2s_own_exporter_lacks_are_refused_where_it_exports() -> None:
    upstream = Settings.model_validate({"export": {"backend": "upstream"}})
    with pytest.raises(InputError, match=r"^occlusion: .*export\.backend: upstream"):
        read_options({"occlusion": True}, upstream)
    assert read_options({"occlusion": True}, upstream, mesh="0" * 32).occlusion


def test_an_empty_list_of_levels_is_none() -> None:
    assert read_options({"lods": []}, DEFAULTS).lods == ()
