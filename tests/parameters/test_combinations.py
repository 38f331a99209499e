"""Fields of a request that exclude each other."""

from __future__ import annotations

import pytest

from trellis2_server.errors import InputError
from trellis2_server.parameters import read_export, read_options
from trellis2_server.settings import Settings

DEFAULTS = Settings()


@pytest.mark.parametrize(
    ("fields", "other"),
    [
        ({"occlusion": True, "texture": False}, "texture"),
        ({"occlusion": "yes", "type": "stl"}, "type stl"),
        ({"occlusion": True, "type": "ply"}, "type ply"),
        ({"normal_map": True, "texture": False}, "texture"),
        ({"normal_map": True, "type": "3mf"}, "type 3mf"),
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
    allowed = read_options({**fields, name: False}, DEFAULTS)
    assert not getattr(allowed, name)


def test_a_normal_map_of_a_mesh_is_refused() -> None:
    with pytest.raises(InputError, match=r"^normal_map: .*mesh"):
        read_options({"normal_map": True}, DEFAULTS, mesh="0" * 32)


def test_maps_that_trellis2s_own_exporter_lacks_are_refused_where_it_exports() -> None:
    upstream = Settings.model_validate({"export": {"backend": "upstream"}})
    with pytest.raises(InputError, match=r"^occlusion: .*export\.backend: upstream"):
        read_options({"occlusion": True}, upstream)
    assert read_options({"occlusion": True}, upstream, mesh="0" * 32).occlusion
