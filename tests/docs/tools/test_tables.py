from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from docs.tools.tables import documents, main, parameters_table, settings_table, stale, update
from trellis2_server.request_fields import FIELDS
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_the_tables_in_the_documents_are_current() -> None:
    assert stale(documents()) == [], "run `python docs/tools/tables.py`"


def test_each_setting_and_each_field_has_one_row() -> None:
    settings = settings_table().splitlines()[2:]
    keys: list[str] = []
    for name, section in Settings.model_fields.items():
        model: Any = section.annotation
        keys += [f"`{name}.{key}`" for key in model.model_fields]
    assert [row.split(" | ")[0].removeprefix("| ") for row in settings] == keys
    fields = [row.split(" | ")[0].strip("| `") for row in parameters_table().splitlines()[2:]]
    assert sorted(fields) == sorted(field.name for field in FIELDS)


@pytest.mark.parametrize(
    "row",
    [
        "| `server.port` | 8082 | 0 … 65,535 |",
        "| `server.api_keys` | none |  |",
        "| `server.rate_per_minute` | null | null, over 0 … 1,000,000 |",
        "| `server.root_path` | empty |  |",
        "| `server.trusted_proxies` | none |  |",
        "| `export.compress` | null | meshopt, draco, null |",
        "| `export.remesh` | false | true, false |",
    ],
)
def test_a_setting_is_shown_with_its_default_and_bounds(row: str) -> None:
    assert any(each.startswith(row) for each in settings_table().splitlines())


@pytest.mark.parametrize(
    "row",
    [
        "| `seed` |  | -1 … 4,294,967,295 | `generation.seed` |",
        "| `texture_size` | `glb_texture_size` | `256`, `512`, ",
        "| `geo_rotation` |  |  | `0.0` |",
        "| `ss_guidance_interval` |  | two numbers, 0 … 1 | the checkpoint's |",
        "| `compress` |  | `meshopt`, `draco`, `null` | `export.compress` |",
        "| `type` |  | `glb`, `obj`, `ply`, `stl`, `obj_zip`, `gltf_zip`, `3mf`, `usdz` | `glb` |",
        "| `remove_background` |  | `true`, `false` |  |",
    ],
)
def test_a_field_is_shown_with_its_aliases_default_and_values(row: str) -> None:
    assert any(each.startswith(row) for each in parameters_table().splitlines())


def test_only_what_is_between_markers_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.md"
    file.write_text("# A\n\n<!-- settings -->\nold\n<!-- /settings -->\n\nb \\1\n", "utf-8")
    assert main(["--check", str(file)]) == 1
    assert capsys.readouterr().out == f"{file}: stale\n"
    assert main([str(file)]) == 0
    expected = f"# A\n\n<!-- settings -->\n{settings_table()}\n<!-- /settings -->\n\nb \\1\n"
    assert file.read_text("utf-8") == expected
    assert (main(["--check", str(file)]), stale([file])) == (0, [])


def test_an_empty_place_between_markers_is_filled() -> None:
    begin, end = "<!-- settings -->\n", "<!-- /settings -->\n"
    assert update(begin + end) == f"{begin}{settings_table()}\n{end}"


def test_a_marker_without_its_pair_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"<!-- settings --> and <!-- /settings --> are no pair"):
        update("<!-- settings -->\n")


def test_a_table_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print", "parameters"]) == 0
    assert capsys.readouterr().out == parameters_table() + "\n"
