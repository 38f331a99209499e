from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis2_server.errors import InputError
from trellis2_server.parameters import (
    EXPORT_FIELDS,
    Options,
    PlacedFile,
    Placement,
    fields_of,
    read_delivery,
    read_export,
    read_options,
)
from trellis2_server.request_fields import BY_NAME, FIELDS, MAX_SEED
from trellis2_server.settings import Settings

DEFAULTS = Settings()
TEXTURE_SIZES_PX = BY_NAME["texture_size"].choices
NUMBERS = (
    "ss_guidance_scale",
    "ss_sampling_steps",
    "shape_guidance_rescale",
    "tex_rescale_t",
    "max_num_tokens",
    "decimation_target",
    "texture_size",
    "resolution",
)


def options(**raw: object) -> Any:
    return read_options(raw, DEFAULTS)


@given(
    st.sampled_from(NUMBERS),
    st.one_of(
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from([10**400, -(10**400), 10**4000, 1e308, -1e308, 5e-324]),
    ),
    st.booleans(),
)
def test_a_number_is_clamped_whatever_its_size_and_form(
    name: str,
    value: float,
    as_text: bool,  # noqa: FBT001 - drawn
) -> None:
    text = str(value) if isinstance(value, float) or abs(value) < 10**400 else None
    raw = text if as_text and text is not None else value
    read = read_options({name: raw, "seed": 1}, DEFAULTS)
    assert read.texture_size in TEXTURE_SIZES_PX
    assert 1_000 <= read.decimation_target <= 16_777_216
    assert 4_096 <= read.max_num_tokens <= 262_144
    for sampler in (read.ss, read.shape, read.tex):
        assert 0 <= sampler.guidance_scale <= 20
        assert 1 <= sampler.sampling_steps <= 100
        assert sampler.guidance_rescale is None or 0 <= sampler.guidance_rescale <= 1
        assert sampler.rescale_t is None or 1 <= sampler.rescale_t <= 20


@given(
    st.dictionaries(
        st.sampled_from([n for f in FIELDS for n in (f.name, *f.aliases)]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
            max_leaves=4,
        ),
        max_size=5,
    )
)
def test_any_value_is_read_or_refused_by_name(raw: dict[str, object]) -> None:
    try:
        read_options(raw, DEFAULTS)
        read_delivery(raw)
    except InputError as error:
        name = str(error).split(":")[0]
        assert name in raw
        str(error).encode()  # can be sent


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "nan", "inf", "1e999", "", "x"])
def test_a_value_that_is_not_a_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{name}: "):
        options(**{name: value})


@pytest.mark.parametrize("value", [True, [1], {"a": 1}, [[]]])
def test_a_value_that_is_not_a_single_number_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"^texture_size: "):
        options(texture_size=value)


@pytest.mark.parametrize(
    ("value", "read"),
    [(0, 0), (MAX_SEED, MAX_SEED), ("7", 7), (7.0, 7), ("7.0", 7), (" +7 ", 7)],
)
def test_a_seed_is_a_whole_number(value: object, read: int) -> None:
    found = options(seed=value)
    assert (found.seed, found.is_seed_random) == (read, False)


@pytest.mark.parametrize(
    "value", [-2, MAX_SEED + 1, 10**400, -(10**400), "1" * 401, 0.5, "x", "", math.nan, True, [1]]
)
def test_an_invalid_seed_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"^seed: "):
        options(seed=value)


@pytest.mark.parametrize("value", [-1, "-1", None])
def test_minus_one_and_null_mean_a_random_seed(value: object) -> None:
    first, second = options(seed=value), options(seed=value)
    assert first.is_seed_random
    assert 0 <= first.seed <= MAX_SEED
    assert first.seed != second.seed


def test_a_random_seed_can_be_each_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, seed in ((0, 0), (-1, MAX_SEED)):

        def pick(number: int, rank: int = rank) -> int:
            return range(number)[rank]

        monkeypatch.setattr("secrets.randbelow", pick)
        assert options(seed=-1).seed == seed


def test_hunyuans_fields_set_two_stages_unless_their_own_fields_do() -> None:
    found = options(guidance_scale=3.5, num_inference_steps=20, shape_sampling_steps=7)
    guidance = found.ss.guidance_scale, found.shape.guidance_scale, found.tex.guidance_scale
    steps = found.ss.sampling_steps, found.shape.sampling_steps, found.tex.sampling_steps
    assert guidance == (3.5, 3.5, 1.0)
    assert steps == (20, 7, 12)
    assert options(guidance_scale=3.5, ss_guidance_scale=9).ss.guidance_scale == 9


def test_an_absent_seed_is_the_configured_one() -> None:
    assert options().seed == 42
    random = Settings.model_validate({"generation": {"seed": -1}})
    assert read_options({}, random).is_seed_random


@pytest.mark.parametrize(
    ("asked", "taken"),
    [(1, 256), (-5, 256), (1000, 1024), (1500, 2048), (9999, 8192), ("512", 512), (1e300, 8192)],
)
def test_a_texture_size_becomes_the_nearest_power_of_two(asked: object, taken: int) -> None:
    assert options(texture_size=asked).texture_size == taken


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        (512, "512"),
        ("1024", "1024_cascade"),
        (1536, "1536_cascade"),
        (0, "512"),
        (9e9, "1536_cascade"),
    ],
)
def test_a_resolution_names_a_pipeline_type(asked: object, taken: str) -> None:
    assert options(resolution=asked).pipeline_type == taken
    assert options(resolution=asked, pipeline_type="1024").pipeline_type == "1024"


SAMPLE = {
    "guidance_scale": (3.5, 3.5),
    "sampling_steps": ("8", 8),
    "guidance_rescale": (0.25, 0.25),
    "guidance_interval": ("[0.1, 0.9]", (0.1, 0.9)),
    "rescale_t": (4, 4.0),
}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_alias_means_its_field(field: Any) -> None:
    for alias in field.aliases:
        prefix, _, rest = field.name.partition("_")
        if prefix in {"ss", "shape", "tex"}:
            value, read = SAMPLE[rest]
            assert getattr(getattr(options(**{alias: value}), prefix), rest) == read, alias
        else:
            assert getattr(options(**{alias: 2048}), field.name) == 2048, alias


def test_the_contracts_names_are_all_known() -> None:
    names = {name for field in FIELDS for name in (field.name, *field.aliases)}
    assert names >= {
        "seed", "texture", "type", "remove_background", "no_rembg", "resolution", "pipeline_type",
        "ss_guidance_scale", "ss_guidance_strength", "ss_sampling_steps", "shape_guidance_scale",
        "shape_slat_guidance_strength", "shape_slat_sampling_steps", "tex_guidance_scale",
        "tex_slat_guidance_strength", "tex_slat_sampling_steps", "tex_sampling_steps",
        "max_num_tokens", "decimation_target", "face_count", "glb_decimation_target",
        "texture_size", "glb_texture_size", "alpha_mode", "texture_format", "compress", "remesh",
        "shape_slat_guidance_interval", "shape_slat_rescale_t", "tex_slat_guidance_rescale",
    }  # fmt: skip


def test_its_own_name_wins_over_an_alias() -> None:
    assert options(decimation_target=5000, face_count=6000).decimation_target == 5000
    assert options(decimation_target=None, face_count=6000).decimation_target == 6000


@pytest.mark.parametrize("value", [[0.5], [1, 0], "0.9 0.1", ["a", 1], [None, 1], "x", [[], {}]])
def test_an_interval_is_two_numbers_in_order(value: object) -> None:
    with pytest.raises(InputError, match=r"^ss_guidance_interval: "):
        options(ss_guidance_interval=value)


@pytest.mark.parametrize(
    ("raw", "texture"),
    [({}, None), ({"texture": None}, None), ({"texture": "True"}, True), ({"texture": 0}, False)],
)
def test_texture_is_true_false_or_absent(raw: dict[str, object], texture: object) -> None:
    assert read_delivery(raw).texture is texture


def test_fields_of_the_delivery_do_not_change_the_options() -> None:
    assert options(texture=True, type="GLB", unknown=object()) == options(texture=False)


@pytest.mark.parametrize(
    "raw",
    [{"texture": "maybe"}, {"type": "exe"}, {"alpha_mode": "x"}, {"compress": "zip"}, {"type": []}],
)
def test_an_unknown_choice_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(InputError, match=rf"^{next(iter(raw))}: "):
        read_delivery(raw)


def test_no_rembg_is_the_opposite_of_remove_background() -> None:
    assert options(no_rembg="1").remove_background is False
    assert options(no_rembg=True, remove_background=True).remove_background == "always"
    assert options(no_rembg=False).remove_background == "always"
    assert options(no_rembg=None, remove_background=None).remove_background is True
    assert options(compress="none").compress is None
    assert options(compress="MESHOPT").compress == "meshopt"


def test_remesh_applies_to_generated_models_and_not_to_a_mesh_of_the_request() -> None:
    assert options().remesh is False
    assert options(remesh="true").remesh is True
    assert options(remesh=True) != options(remesh=False)
    configured = Settings.model_validate({"export": {"remesh": True}})
    assert read_options({}, configured).remesh is True
    assert read_options({"remesh": 0}, configured).remesh is False
    assert read_options({"remesh": True}, configured, mesh="0" * 32).remesh is False


# ---- fields that do not apply, and exports --------------------------------------------------


def test_a_field_that_does_not_apply_has_its_declared_default() -> None:
    configured = Settings.model_validate({"export": {"compress": "draco", "remesh": True}})
    mesh = "0" * 32
    assert read_options({}, configured).compress == "draco"
    assert read_options({"type": "obj"}, configured).compress is None
    assert read_options({}, configured, mesh=mesh).remesh is False
    assert read_options({}, configured, mesh=mesh).compress == "draco"
    assert read_options({"geo_rotation": -450}, configured).geo_rotation == 0
    assert read_options({"geo_rotation": -450}, configured, mesh=mesh).geo_rotation == -90


def test_an_export_changes_fields_of_the_export_only() -> None:
    made = options(texture_size=512, compress="draco", alpha_mode="MASK")
    raw = {"texture_size": 1024, "remesh": 1, "seed": 9, "pipeline_type": "512"}
    asked = read_export(raw, made, DEFAULTS)
    assert asked == dataclasses.replace(made, texture_size=1024, remesh=True)
    assert read_export({}, made, DEFAULTS) == made
    assert read_export({"type": "stl"}, made, DEFAULTS).compress is None
    assert set(EXPORT_FIELDS) <= {field.name for field in dataclasses.fields(Options)}
    with pytest.raises(InputError, match=r"^seed: "):
        read_export({"seed": "x"}, made, DEFAULTS)


def test_an_export_of_a_mesh_compresses_but_does_not_remesh() -> None:
    made = read_options({"seed": 1}, DEFAULTS, mesh="0" * 32)
    assert read_export({"remesh": True}, made, DEFAULTS) == made
    packed = read_export({"remesh": True, "compress": "draco"}, made, DEFAULTS)
    assert packed == dataclasses.replace(made, compress="draco")


# ---- the operator's maxima -------------------------------------------------------------------

CAPS: dict[str, Any] = {"max_texture_size": 1024, "max_decimation_target": 50_000}
CAPPED = Settings.model_validate(
    {"export": {**CAPS, "glb_texture_size": 512, "glb_decimation_target": 20_000}}
)


@given(
    st.one_of(st.integers(), st.sampled_from(TEXTURE_SIZES_PX)),
    st.integers(-(10**30), 10**30),
    st.sampled_from(["decimation_target", "face_count", "glb_decimation_target"]),
)
def test_requests_above_the_servers_maximum_are_lowered_to_it(
    size: int, faces: int, name: str
) -> None:
    raw = {"texture_size": size, name: faces, "seed": 1}
    free, capped = read_options(raw, DEFAULTS), read_options(raw, CAPPED)
    assert capped.texture_size == min(free.texture_size, 1024)
    assert capped.decimation_target == min(free.decimation_target, 50_000)
    same = {"texture_size": free.texture_size, "decimation_target": free.decimation_target}
    assert dataclasses.replace(capped, **same) == free
    for made in (free, capped):  # a job may be older than the maximum
        again = read_export(raw, made, CAPPED)
        assert (again.texture_size, again.decimation_target) == (
            capped.texture_size, capped.decimation_target,
        )  # fmt: skip
        assert read_export({}, made, CAPPED).texture_size == capped.texture_size


def test_a_request_that_names_no_size_gets_the_servers_default() -> None:
    read = read_options({}, CAPPED)
    assert (read.texture_size, read.decimation_target) == (512, 20_000)


# ---- from parameters to fields --------------------------------------------------------------


@pytest.mark.parametrize("removal", [{}, {"remove_background": False}, {"no_rembg": False}])
def test_the_removal_of_the_background_is_told_apart_from_no_wish(
    removal: dict[str, object],
) -> None:
    read = read_options(removal, DEFAULTS)
    assert read_options(fields_of(read), DEFAULTS) == read
    assert ("remove_background" in fields_of(read)) is bool(removal)


@pytest.mark.parametrize("mesh", [None, "0" * 32])
def test_the_fields_of_parameters_give_the_same_parameters(mesh: str | None) -> None:
    raw = {
        "seed": 3, "ss_rescale_t": 2, "tex_guidance_interval": [0.1, 0.5], "compress": "meshopt",
        "geo_rotation": 30, "pipeline_type": "512", "remove_background": False, "remesh": True,
        "max_num_tokens": 5000, "decimation_target": 2000, "alpha_mode": "BLEND",
        "texture_format": "png", "shape_guidance_rescale": 0.5, "up_axis": "Z",
        "uv": "keep", "occlusion": True, **({} if mesh else {"normal_map": True, "depth": 0}),
        "back": "mirror",
    }  # fmt: skip
    read = read_options(raw, DEFAULTS, mesh=mesh)
    assert read.up_axis == ("z" if mesh else "auto")
    other = Settings.model_validate(
        {"generation": {"seed": 7, "ss_sampling_steps": 3}, "export": {"compress": "draco"}}
    )
    assert read_options(fields_of(read), other, mesh=mesh) == read
    assert fields_of(read).keys() <= BY_NAME.keys()


def test_a_file_has_the_placement_of_its_type_unless_a_request_says_otherwise() -> None:
    for file_type in ("glb", "stl", "obj"):
        assert read_delivery({"type": file_type}).placement is None
    stl = {"type": "stl"}
    assert read_delivery({**stl, "up_axis": "Z", "size_mm": "100", "origin": "floor"}) == (
        read_delivery(stl)
    )
    assert read_delivery({**stl, "size_mm": 0}).placement == Placement("z", None, "floor")
    assert read_delivery({**stl, "up_axis": "y"}).placement == Placement("y", 100, "floor")
    assert read_delivery({"type": "ply", "up_axis": "z"}).placement == Placement("z")
    assert read_delivery({"size_m": 1.8}).form == PlacedFile("glb", Placement("y", 1.8))
    assert read_delivery({"size_m": 1e9}).placement == Placement("y", 10_000)
    assert read_delivery({"size_m": 1e-9}).placement == Placement("y", 1e-3)
    # The axis of a request with a mesh is that of the mesh.
    assert read_delivery({**stl, "up_axis": "y"}, has_mesh=True).placement is None
    assert read_delivery({"up_axis": "z"}, has_mesh=True).placement is None


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"type": "glb", "up_axis": "z"}, ("up_axis", "glb")),
        ({"type": "gltf_zip", "up_axis": "z"}, ("up_axis", "gltf_zip")),
        ({"type": "stl", "size_m": 1}, ("size_m", "stl", "size_mm")),
        ({"size_mm": 100}, ("size_mm", "glb", "size_m")),
        ({"type": "stl", "size_mm": -1}, ("size_mm",)),
        ({"type": "stl", "size_mm": "big"}, ("size_mm",)),
        ({"origin": "corner"}, ("origin",)),
        ({"up_axis": "x"}, ("up_axis",)),
    ],
)
def test_a_placement_that_does_not_go_with_the_type_is_refused_by_both_names(
    fields: dict[str, object], names: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as refused:
        read_delivery(fields)
    assert all(name in str(refused.value) for name in names)
