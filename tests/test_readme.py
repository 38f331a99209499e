from __future__ import annotations

import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from trellis2_server.config import FIELDS, Settings

if typing.TYPE_CHECKING:
    from pydantic import BaseModel

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    """The fenced block after `<!-- name -->`."""
    found = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    assert found, name
    return found[1]


def bounds(section: type[BaseModel], key: str) -> str:
    field = section.model_fields[key]
    annotation: Any = field.annotation
    parts = (
        typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    )
    words: list[str] = []
    for part in parts:
        if typing.get_origin(part) is typing.Literal:
            words += [str(value) for value in typing.get_args(part)]
        elif part is bool:
            words += ["true", "false"]
        elif part is types.NoneType:
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
    """What the README's table of settings must be."""
    rows = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        section: Any = field.annotation
        for key, setting in section.model_fields.items():
            default = setting.default
            shown = {(): "none", None: "null", False: "false", "": "empty"}.get(default, default)
            if isinstance(shown, tuple):
                shown = ", ".join(shown)
            rows.append(
                f"| `{name}.{key}` | {shown} | {bounds(section, key)} | {setting.description} |"
            )
    return "\n".join(rows)


def test_the_table_of_settings_is_what_the_server_knows() -> None:
    found = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", README, re.DOTALL)
    assert found
    assert found[1] == settings_table()


def test_every_field_of_a_request_is_in_the_readme() -> None:
    for field in FIELDS:
        stage = re.fullmatch(r"(?:ss|shape|tex)_(\w+)", field.name)
        assert f"`{stage[1] if stage else field.name}`" in README


@pytest.mark.parametrize("name", ["run", "tests"])
def test_a_command_is_one_line(name: str) -> None:
    assert block(name).count("\n") == 1
