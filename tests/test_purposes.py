from __future__ import annotations

import pytest

from trellis2_server.errors import InputError
from trellis2_server.parameters import (
    Placement,
    default_placement,
    read_delivery,
    read_export,
    read_options,
)
from trellis2_server.purposes import PURPOSES, Purpose, suited_fields
from trellis2_server.request_fields import BY_NAME
from trellis2_server.settings import Settings


@pytest.mark.parametrize("purpose", PURPOSES.values(), ids=list(PURPOSES))
def test_the_fields_of_a_purpose_go_together(purpose: Purpose) -> None:
    fields = dict(purpose.fields)
    for name, value in fields.items():
        field = BY_NAME[name]
        assert field.group in {"export", "file", "delivery"}
        assert not field.choices or value in {*field.choices, "none" if field.is_nullable else None}
        assert not field.bounds or field.bounds[0] <= value <= field.bounds[1]
        assert field.applies(has_mesh=False, file_type=str(fields["type"]))
    delivery = read_delivery(fields)
    assert delivery.type == fields["type"]
    if "size_mm" in fields or "size_m" in fields:
        assert (delivery.placement or default_placement(delivery.type)).size
    read_options(fields, Settings())


def test_a_preset_is_each_purpose_and_sets_what_its_fields_set() -> None:
    assert BY_NAME["preset"].choices == tuple(PURPOSES)
    settings = Settings()
    for name, purpose in PURPOSES.items():
        preset, fields = {"preset": name, "seed": 1}, {**purpose.fields, "seed": 1}
        assert read_delivery(preset) == read_delivery(fields)
        assert read_options(preset, settings) == read_options(fields, settings)
        job = read_options({"seed": 2}, settings)
        assert read_export(preset, job, settings) == read_export(fields, job, settings)


def test_what_a_request_says_itself_wins_over_its_preset() -> None:
    options = read_options({"preset": "game", "decimation_target": 7000}, Settings())
    assert (options.decimation_target, options.texture_size) == (7000, 2048)
    delivery = read_delivery({"preset": "print", "size_mm": 30, "origin": "center"})
    assert (delivery.type, delivery.placement) == ("3mf", Placement("z", 30.0, "center"))
    assert read_delivery({"preset": "ar", "type": "stl"}).placement is None  # not half a millimetre
    assert read_delivery({"preset": "game", "type": "obj"}).placement is None


def test_a_preset_sets_only_what_applies_to_a_mesh() -> None:
    assert "solid" in suited_fields("print", None, has_mesh=False)
    assert "solid" not in suited_fields("print", None, has_mesh=True)
    mesh = read_options({"preset": "print"}, Settings(), mesh="0" * 32)
    assert (mesh.solid, mesh.texture_size) == (False, 2048)


def test_a_preset_asks_for_no_map_that_the_file_cannot_have() -> None:
    def maps(**fields: object) -> tuple[bool, bool]:
        options = read_options({"preset": "game", **fields}, Settings())
        return options.normal_map, options.occlusion

    assert maps() == (True, True)
    assert maps(type="obj_zip") == (True, False)
    assert maps(type="stl") == maps(texture=False) == (False, False)
    assert maps(occlusion=False) == (True, False)
    upstream = Settings.model_validate({"export": {"backend": "upstream"}})
    assert not read_options({"preset": "game"}, upstream).normal_map
    with pytest.raises(InputError, match=r"^normal_map: .* compress: draco"):
        maps(compress="draco")
