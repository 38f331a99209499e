from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_args

import pytest
from pydantic import ValidationError

from trellis2_server.errors import ConfigError
from trellis2_server.request_fields import BY_NAME, FIELDS
from trellis2_server.settings import (
    ExportSettings,
    GenerationSettings,
    ModelSettings,
    Settings,
    load_settings,
)

if TYPE_CHECKING:
    from pathlib import Path

DEFAULTS = Settings()


def test_the_three_files_have_the_contracts_values(request: pytest.FixtureRequest) -> None:
    def row(name: str) -> tuple[object, ...]:
        s = load_settings(request.config.rootpath / f"api_server_config_{name}.json")
        assert s.server.host == ("0.0.0.0", "::")  # noqa: S104
        assert (s.server.port, s.server.log_level) == (8082, "info")
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


def test_the_default_file_equals_the_built_in_defaults(
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
    assert (loaded.server.port, loaded.server.host) == (1, ("::1",))
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


def test_a_missing_file_or_one_that_is_not_text_is_refused(tmp_path: Path) -> None:
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


def test_without_a_file_the_defaults_are_used_and_overridden() -> None:
    assert load_settings(None) == DEFAULTS
    assert load_settings(None, {"server": {"port": 1}}).server.port == 1
    with pytest.raises(ConfigError, match=r"^built-in defaults: server.port: "):
        load_settings(None, {"server": {"port": 65536}})


# ---- defaults of a request's fields -----------------------------------------------------------


def test_each_default_of_a_field_is_a_setting_with_the_fields_bounds_and_choices() -> None:
    for field in FIELDS:
        if field.setting is None:
            continue
        section, key = field.setting.split(".")
        model: Any = Settings.model_fields[section].annotation
        setting = model.model_fields[key]
        assert setting.default == field.default, field.name
        assert setting.description == f"Default of `{field.name}`: {field.summary}."
        for bound, wrong in zip(field.bounds or (), (-1, 1), strict=False):
            assert getattr(model.model_validate({key: bound}), key) == bound
            with pytest.raises(ValidationError):
                model.model_validate({key: bound + wrong})
        if field.choices:
            allowed = next(
                each
                for each in (setting.annotation, *get_args(setting.annotation))
                if set(get_args(each)) == set(field.choices)
            )
            assert get_args(allowed) == field.choices


def test_each_setting_of_generation_is_the_default_of_a_field() -> None:
    keys = {field.setting for field in FIELDS}
    assert {f"generation.{key}" for key in GenerationSettings.model_fields} <= keys
    assert {f"export.{key}" for key in ExportSettings.model_fields} - keys == {
        "export.backend",
        "export.max_decimation_target",
        "export.max_texture_size",
        "export.unwrap",
    }
    assert BY_NAME["decimation_target"].setting == "export.glb_decimation_target"


# ---- keys of stored results -------------------------------------------------------------------


def test_the_repr_of_the_model_settings_is_as_stored() -> None:
    assert repr(ModelSettings()) == (
        "ModelSettings(engine='auto', model_path='microsoft/TRELLIS.2-4B', device='cuda', "
        "trellis2_path=None, offline=False, revision=None, image_encoder=None, low_vram=None, "
        "idle_unload_seconds=None, background='auto', background_model='isnet-general-use')"
    )


@pytest.mark.parametrize(
    ("export", "said"),
    [
        ({"max_texture_size": 2048}, "glb_texture_size, 4096, must not be over max_texture_size"),
        (
            {"max_decimation_target": 1000, "glb_decimation_target": 1001},
            "glb_decimation_target, 1001, must not be over max_decimation_target, 1000",
        ),
    ],
)
def test_a_default_above_the_maximum_stops_the_start_and_names_both_keys(
    export: dict[str, int], said: str
) -> None:
    with pytest.raises(ConfigError, match=f"export: {said}"):
        load_settings(None, {"export": export})
    names = {key: value for key, value in export.items() if key.startswith("max_")}
    lowered = {"glb_texture_size": 1024, "glb_decimation_target": 1000}
    assert load_settings(None, {"export": {**names, **lowered}})
