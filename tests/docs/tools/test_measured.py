from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from docs.tools import figures, measured, tables

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", list(measured.TABLES))
def test_each_table_names_a_file_that_is_there_and_is_in_a_document(name: str) -> None:
    made = measured.TABLES[name]()
    head, line, *body = made.partition("\n\nFrom ")[0].splitlines()
    assert body
    assert {row.count(" | ") for row in (head, line, *body)} == {head.count(" | ")}
    files = re.findall("`(docs/measured/.*?)`", made.partition("\n\nFrom ")[2])
    assert files
    assert all((tables.ROOT / file).is_file() for file in files)
    assert any(made in file.read_text(encoding="utf-8") for file in tables.documents())


def test_a_document_whose_figure_differs_from_the_file_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "measured gpu-decoders"
    document = tmp_path / "page.md"
    document.write_text(tables.update(f"<!-- {name} -->\n\n<!-- /{name} -->\n"), "utf-8")
    assert tables.stale([document]) == []
    (source,) = figures.FOLDER.glob("*-all-parts.json")
    changed: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    changed["parts"]["decode"]["rows"][0]["shape_s"] *= 2
    (tmp_path / source.name).write_text(json.dumps(changed), "utf-8")
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    assert tables.stale([document]) == [document]


def test_a_document_whose_figure_differs_from_a_recorded_run_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        tables.update("<!-- measured store -->\n\n<!-- /measured store -->"), "utf-8"
    )
    (source,) = figures.FOLDER.glob("store-*.json")
    changed: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    changed["rows"][1]["store_ms_median"] *= 2
    (tmp_path / source.name).write_text(json.dumps(changed), "utf-8")
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    assert tables.stale([document]) == [document]


def test_a_table_names_the_commits_the_processor_and_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = {"cores": 2, "processor": "A processor"}
    ours, theirs = ({"commit": letter * 40, "is_dirty": letter == "a"} for letter in "ab")
    run = {"bench": "example.py", **ours, "against": theirs, "machine": machine, "rows": []}
    (tmp_path / "run.json").write_text(json.dumps(run), "utf-8")
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    assert figures.markdown(("what",), [["1"]], "run").endswith(
        "From `docs/measured/run.json`: `bench/example.py`, commit aaaaaaa with changes against "
        "commit bbbbbbb, 2 cores of A processor."
    )
    with pytest.raises(LookupError, match="run: no table 'speed'"):
        figures.recorded("run", "speed")


def test_a_table_that_a_file_does_not_have_is_an_error() -> None:
    (source,) = figures.FOLDER.glob("*-compile.json")
    with pytest.raises(LookupError, match="no table 'a 1536 job'"):
        figures.rows(source.stem, "compile", "a 1536 job")
