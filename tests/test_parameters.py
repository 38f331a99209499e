from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis2_server.errors import ConfigError, InputError
from trellis2_server.parameters import FIELDS, TEXTURE_SIZES_PX, read_delivery, read_options
from trellis2_server.settings import MAX_SEED, Settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path

DEFAULTS = Settings()
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


# ---- the operator's files ----------------------------------------------------------------


def test_the_three_files_have_the_contracts_values(request: pytest.FixtureRequest) -> None:
    def row(name: str) -> tuple[object, ...]:
        s = load_settings(request.config.rootpath / f"api_server_config_{name}.json")
        assert (s.server.host, s.server.port, s.server.log_level) == ("0.0.0.0", 8082, "info")  # noqa: S104
        assert (s.model.model_path, s.model.device) == ("microsoft/TRELLIS.2-4B", "cuda")
        assert (s.worker.job_cleanup_interval_seconds, s.worker.job_max_age_seconds) == (300, 3600)
        return (
            s.generation.seed,
            s.generation.pipeline_type,
            s.generation.max_num_tokens,
            s.export.glb_decimation_target,
            s.export.glb_texture_size,
            s.worker.limit_model_concurrency,
        )

    assert row("default") == (42, "1024_cascade", 49152, 1_000_000, 4096, 5)
    assert row("low_vram") == (42, "512", 24576, 500_000, 2048, 5)
    assert row("high_quality") == (42, "1536_cascade", 65536, 2_000_000, 8192, 2)


def test_the_default_file_says_what_an_empty_one_means(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    (tmp_path / "c.json").write_text("{}")
    default = request.config.rootpath / "api_server_config_default.json"
    assert load_settings(tmp_path / "c.json") == load_settings(default) == DEFAULTS


def test_a_partial_file_is_merged_and_comments_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    content = {"_": "mine", "server": {"port": 1, "_why": [1]}, "export": {}}
    # As a Windows editor saves it, with a byte order mark.
    file.write_text(json.dumps(content), encoding="utf-8-sig")
    loaded = load_settings(file, {"server": {"host": "::1"}, "worker": {"max_queue_length": 3}})
    assert (loaded.server.port, loaded.server.host) == (1, "::1")
    assert loaded.worker.max_queue_length == 3
    assert loaded.export == DEFAULTS.export


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "must be a JSON object of the sections server, model, generation, export, worker"),
        ('{"servr": {}}', "servr: unknown key; known here: server, model"),
        ('{"server": {"prot": 1}}', "server.prot: unknown key; known here: host, port"),
        ('{"server": 5}', "server: "),
        ('{"server": {"port": 65536}}', "server.port: input should be less than or equal to 65535"),
        ('{"server": {"port": "80"}}', "server.port: input should be a valid integer, not '80'"),
        ('{"server": {"api_keys": [""]}}', "server.api_keys: an API key is empty"),
        ('{"model": {"engine": "x"}}', "'auto', 'trellis2' or 'preview', not 'x'"),
        ('{"model": {"device": "gpu"}}', "model.device: "),
        ('{"export": {"alpha_mode": "x"}}', "'auto', 'OPAQUE', 'MASK' or 'BLEND', not 'x'"),
        ('{"export": {"glb_texture_size": 1000}}', "256, 512, 1024, 2048, 4096 or 8192, not 1000"),
        ('{"worker": {"job_max_age_seconds": NaN}}', "worker.job_max_age_seconds: "),
        ('{"worker": {"job_max_age_seconds": 0}}', "greater than 0, not 0"),
        ('{"generation": {"seed": 4294967296}}', "less than or equal to 4294967295"),
        ('{"generation": {"seed": true}}', "generation.seed: input should be a valid integer"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "none.json")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not JSON"):
        load_settings(tmp_path / "c.json")


def test_an_api_key_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"server": {"api_keys": ["s3cret", 5]}}')
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path / "c.json")
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(Settings.model_validate({"server": {"api_keys": ["s3cret"]}}))


def test_every_key_has_a_line_of_description() -> None:
    for section in Settings.model_fields.values():
        model: Any = section.annotation
        for key, field in model.model_fields.items():
            assert field.description, key


# ---- a request's fields --------------------------------------------------------------------


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
def test_any_value_is_either_meant_or_refused_by_name(raw: dict[str, object]) -> None:
    try:
        read_options(raw, DEFAULTS)
        read_delivery(raw)
    except InputError as error:
        name = str(error).split(":")[0]
        assert name in raw
        str(error).encode()  # can be sent


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "nan", "inf", "1e999", "", "x"])
def test_what_is_no_number_is_refused(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{name}: "):
        options(**{name: value})


@pytest.mark.parametrize("value", [True, [1], {"a": 1}, [[]]])
def test_what_is_no_single_number_is_refused(value: object) -> None:
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
def test_a_seed_that_cannot_be_meant_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"^seed: "):
        options(seed=value)


@pytest.mark.parametrize("value", [-1, "-1", None])
def test_minus_one_and_null_mean_a_random_seed(value: object) -> None:
    first, second = options(seed=value), options(seed=value)
    assert first.is_seed_random
    assert 0 <= first.seed <= MAX_SEED
    assert first.seed != second.seed


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


def test_what_is_delivered_is_no_option() -> None:
    assert options(texture=True, type="GLB", unknown=object()) == options(texture=False)


@pytest.mark.parametrize(
    "raw",
    [{"texture": "maybe"}, {"type": "exe"}, {"alpha_mode": "x"}, {"compress": "zip"}, {"type": []}],
)
def test_a_word_that_is_not_known_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(InputError, match=rf"^{next(iter(raw))}: "):
        read_delivery(raw)


def test_no_rembg_is_the_opposite_of_remove_background() -> None:
    assert options(no_rembg="1").remove_background is False
    assert options(no_rembg=True, remove_background=True).remove_background is True
    assert options(compress="none").compress is None
    assert options(compress="MESHOPT").compress == "meshopt"


def test_remesh_is_an_option_of_what_is_made_but_not_of_a_given_mesh() -> None:
    assert options().remesh is False
    assert options(remesh="true").remesh is True
    assert options(remesh=True) != options(remesh=False)
    configured = Settings.model_validate({"export": {"remesh": True}})
    assert read_options({}, configured).remesh is True
    assert read_options({"remesh": 0}, configured).remesh is False
    assert read_options({"remesh": True}, configured, mesh="0" * 32).remesh is False
