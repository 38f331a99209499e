"""Stored results are found by the `repr` of these records, stored jobs have their fields."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import TypeAdapter

from trellis2_server.parameters import Delivery, Options, read_delivery, read_options
from trellis2_server.settings import Settings


def test_the_repr_of_options_is_as_stored() -> None:
    assert repr(read_options({}, Settings())) == (
        "Options(seed=42, is_seed_random=False, "
        "ss=SamplerOptions(guidance_scale=7.5, sampling_steps=12, guidance_rescale=None, "
        "guidance_interval=None, rescale_t=None), "
        "shape=SamplerOptions(guidance_scale=7.5, sampling_steps=12, guidance_rescale=None, "
        "guidance_interval=None, rescale_t=None), "
        "tex=SamplerOptions(guidance_scale=1.0, sampling_steps=12, guidance_rescale=None, "
        "guidance_interval=None, rescale_t=None), "
        "pipeline_type='1024_cascade', max_num_tokens=49152, decimation_target=1000000, "
        "remesh=False, texture_size=4096, alpha_mode='auto', texture_format='auto', "
        "compress=None, remove_background=True, mesh=None, geo_rotation=0.0)"
    )


def test_options_that_stored_keys_lack_are_in_the_repr_only_if_they_are_set() -> None:
    mesh = "0" * 32
    plain = repr(read_options({}, Settings(), mesh))
    assert plain.endswith(f"mesh='{mesh}', geo_rotation=0.0)")
    turned = read_options({"up_axis": "z", "uv": "keep", "occlusion": True}, Settings(), mesh)
    assert repr(turned) == plain[:-1] + ", up_axis='z', uv='keep', occlusion=True)"
    bumpy = read_options({"normal_map": True}, Settings())
    assert repr(bumpy) == repr(read_options({}, Settings()))[:-1] + ", normal_map=True)"
    deep = read_options({"depth": 1, "back": "FILL"}, Settings())
    assert repr(deep).endswith("geo_rotation=0.0, depth=1.0, back='fill')")
    assert TypeAdapter(Options).validate_json(TypeAdapter(Options).dump_json(deep)) == deep
    levels = read_options({"lods": [5000, 1000]}, Settings())
    assert repr(levels).endswith("geo_rotation=0.0, lods=(5000, 1000))")
    assert TypeAdapter(Options).validate_json(TypeAdapter(Options).dump_json(levels)) == levels


def test_records_are_read_again_from_json() -> None:
    options = read_options({"seed": 1, "ss_guidance_interval": [0, 1]}, Settings(), "0" * 32)
    adapter = TypeAdapter(Options)
    assert adapter.validate_json(adapter.dump_json(options)) == options
    delivery = read_delivery({"type": "obj", "texture": True})
    assert TypeAdapter(Delivery).validate_python(asdict(delivery)) == delivery
