from __future__ import annotations

import json
import re
import types
import typing
from typing import Any

from tests.support.documents import block, section
from trellis2_server.parameters import FIELDS
from trellis2_server.settings import Settings, load_settings

if typing.TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel


def bounds(part: type[BaseModel], key: str) -> str:
    field = part.model_fields[key]
    annotation: Any = field.annotation
    parts = (
        typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    )
    words: list[str] = []
    for each in parts:
        if typing.get_origin(each) is typing.Literal:
            words += [str(value) for value in typing.get_args(each)]
        elif each is bool:
            words += ["true", "false"]
        elif each is types.NoneType:
            words.append("null")
    limits = {type(rule).__name__: rule for rule in field.metadata}
    low = limits.get("Ge") or limits.get("Gt")
    high = limits.get("Le")
    if low and high:
        least = getattr(low, "ge", None)
        text = f"{least:,}" if least is not None else f"over {low.gt:,}"
        words.append(f"{text} … {high.le:,}")
    return ", ".join(words)


def settings_table() -> str:
    rows = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        part: Any = field.annotation
        for key, setting in part.model_fields.items():
            default = setting.default
            shown = {(): "none", None: "null", False: "false", "": "empty"}.get(default, default)
            if isinstance(shown, tuple):
                shown = ", ".join(shown)
            rows.append(
                f"| `{name}.{key}` | {shown} | {bounds(part, key)} | {setting.description} |"
            )
    return "\n".join(rows)


def test_the_table_of_settings_is_what_the_server_knows() -> None:
    assert section("settings") == settings_table()


def test_every_request_field_is_in_the_table_of_parameters() -> None:
    table = section("parameters")
    for field in FIELDS:
        stage = re.fullmatch(r"(?:ss|shape|tex)_(\w+)", field.name)
        assert f"`{stage[1] if stage else field.name}`" in table, field.name


def test_the_example_of_a_configuration_can_be_loaded(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(block("config"))
    assert load_settings(file).server.host == json.loads(block("config"))["server"]["host"]
