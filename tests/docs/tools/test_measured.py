from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from docs.tools import measured, tables

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", list(measured.TABLES))
def test_each_table_names_a_file_that_is_there_and_is_in_a_document(name: str) -> None:
    made = measured.TABLES[name]()
    head, line, *body = made.partition("\n\nFrom ")[0].splitlines()
    assert body
    assert {row.count(" | ") for row in (head, line, *body)} == {head.count(" | ")}
    files = made.partition("\n\nFrom ")[2].rstrip(".").split(", ")
    assert all((tables.ROOT / file.strip("`")).is_file() for file in files)
    assert any(made in file.read_text(encoding="utf-8") for file in tables.documents())


def test_a_document_whose_figure_differs_from_the_file_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "measured gpu-decoders"
    document = tmp_path / "page.md"
    document.write_text(tables.update(f"<!-- {name} -->\n\n<!-- /{name} -->\n"), "utf-8")
    assert tables.stale([document]) == []
    (source,) = measured.FOLDER.glob("*-all-parts.json")
    changed: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    changed["parts"]["decode"]["rows"][0]["shape_s"] *= 2
    (tmp_path / source.name).write_text(json.dumps(changed), "utf-8")
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    assert tables.stale([document]) == [document]


def test_a_table_that_a_file_does_not_have_is_an_error() -> None:
    (source,) = measured.FOLDER.glob("*-compile.json")
    with pytest.raises(LookupError, match="no table 'a 1536 job'"):
        measured.rows(source.stem, "compile", "a 1536 job")
