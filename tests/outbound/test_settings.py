"""Settings of what calls other hosts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from trellis2_server.errors import ConfigError
from trellis2_server.settings import Settings, load_settings, with_secrets

if TYPE_CHECKING:
    from pathlib import Path

HOOK = "TRELLIS2_SERVER_WEBHOOK_SECRET"
KEY = "TRELLIS2_SERVER_TEXT_TO_IMAGE_KEY"


def load(tmp_path: Path, content: dict[str, Any]) -> Settings:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    return load_settings(file)


def test_no_host_is_called_by_default() -> None:
    settings = Settings()
    assert settings.server.image_hosts == settings.server.webhook_hosts == ()
    assert settings.text_to_image.url is None


def test_hosts_and_a_service_are_read(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        {
            "server": {"image_hosts": ["*.example.com", "10.0.0.0/8"], "webhook_secret": "x" * 16},
            "text_to_image": {"url": "http://localhost:8080/v1/images/generations", "size": None},
        },
    )
    assert settings.server.image_hosts == ("*.example.com", "10.0.0.0/8")
    assert settings.text_to_image.size is None


@pytest.mark.parametrize(
    ("section", "key", "value", "says"),
    [
        ("server", "image_hosts", ["https://example.com"], "is no host: write a name"),
        ("server", "webhook_hosts", ["example.com/hook"], "is no host: write a name"),
        ("server", "webhook_hosts", "example.com", "valid tuple"),
        ("server", "webhook_secret", "short secret", "at least 16 bytes"),
        ("server", "webhook_secret", "whsec_!!!!!!!!!!!!!!!!!!!!!!!!", "must be base64"),
        ("text_to_image", "url", "localhost:8080", "must be a URL such as"),
        ("text_to_image", "url", "ftp://localhost/", "must be a URL such as"),
        ("text_to_image", "api_key", "secret with\nlines", "no white space"),
        ("text_to_image", "api_key", "", "no white space"),
        ("text_to_image", "size", "big", "match pattern"),
        ("text_to_image", "size", "0x10", "match pattern"),
        ("text_to_image", "timeout_seconds", 0, "greater than 0"),
        ("text_to_image", "timeout_seconds", 3601, "less than or equal to 3600"),
        ("text_to_image", "max_requests", 65, "less than or equal to 64"),
        ("text_to_image", "prompt_suffix", "x" * 1001, "at most 1000"),
        ("text_to_image", "response_format", "jpeg", "'b64_json' or 'url'"),
    ],
)
def test_a_wrong_setting_is_named_and_no_secret_is_shown(
    tmp_path: Path, section: str, key: str, value: object, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {section: {key: value}})
    message = str(caught.value)
    assert f"{section}.{key}" in message
    assert says in message
    assert "secret with" not in message
    assert "short secret" not in message


def test_secrets_of_the_environment_take_the_place_of_those_of_the_file() -> None:
    given = Settings.model_validate(
        {"server": {"webhook_hosts": ("a.com",), "webhook_secret": SecretStr("f" * 16)}}
    )
    settings = with_secrets(given, {HOOK: " " + "e" * 16 + "\n", KEY: "sk-1"})
    assert settings.server.webhook_secret == SecretStr("e" * 16)
    assert settings.text_to_image.api_key == SecretStr("sk-1")
    assert settings.server.webhook_hosts == ("a.com",)
    assert with_secrets(given, {HOOK: "", KEY: " "}) == given


@pytest.mark.parametrize("variable", [HOOK, KEY])
def test_a_wrong_secret_of_the_environment_is_named_not_shown(variable: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_secrets(Settings(), {variable: "a bad one"})
    assert variable in str(caught.value)
    assert "a bad one" not in str(caught.value)


def test_webhooks_need_a_secret() -> None:
    settings = Settings.model_validate({"server": {"webhook_hosts": ("a.com",)}})
    with pytest.raises(ConfigError, match=r"^server\.webhook_hosts: needs server\.webhook_sec"):
        with_secrets(settings, {})
    assert with_secrets(settings, {HOOK: "x" * 16}).server.webhook_secret


def test_no_secret_is_in_the_repr_of_settings() -> None:
    settings = with_secrets(Settings(), {HOOK: "x" * 16, KEY: "sk-1"})
    assert "x" * 16 not in repr(settings)
    assert "sk-1" not in repr(settings)
