from __future__ import annotations

import argparse
import ast
import functools
import json
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import record
from bench.record import Record, add_option

ROOT = Path(__file__).resolve().parents[2]
BENCHES = sorted((ROOT / "bench").glob("*.py"))
MEASURED = sorted(
    path for path in (ROOT / "docs" / "measured").glob("*.json") if not path.name.startswith("gpu-")
)
#: Commands of `bench/` that measure nothing.
OTHER_COMMANDS = {
    "render.py": "draws a model",
    "same.py": "compares two checkouts and shows what differs",
}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def parsed(*command: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--against", type=Path)
    add_option(parser)
    return parser.parse_args(command)


def empty(_: Path) -> str:
    return ""


def git(folder: Path, *command: str) -> str:
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *author, *command], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture(name="checkout")
def make_checkout(tmp_path: Path) -> Path:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    git(checkout, "init", "-q")
    (checkout / "file").write_text("a", "utf-8")
    git(checkout, "add", "file")
    git(checkout, "commit", "-q", "-m", "first")
    return checkout


def test_a_record_has_the_run_the_checkouts_and_the_machine(tmp_path: Path, checkout: Path) -> None:
    file = tmp_path / "out.json"
    record_of = Record(
        "/somewhere/bench/example.py",
        parsed("--json", str(file), "--photo", "/home/ann/a.jpg", "--against", str(checkout)),
    )
    assert not file.exists()
    record_of.add("speed", {"seconds": np.float64(1.23456789), "steps": np.int64(3)})
    record_of.add("pairs", {"of": [1.0, 2.0]})
    written = json.loads(file.read_text("utf-8"))
    assert list(written) == [
        *("bench", "arguments", "commit", "is_dirty", "against", "machine", "started", "rows"),
    ]
    assert written["bench"] == "example.py"
    assert written["arguments"] == {"rounds": 3, "photo": "a.jpg", "model": None}
    assert written["against"] == {"commit": git(checkout, "rev-parse", "HEAD"), "is_dirty": False}
    assert written["rows"] == [
        {"table": "speed", "seconds": 1.23457, "steps": 3},
        {"table": "pairs", "of": [1.0, 2.0]},
    ]
    assert written["machine"]["packages"]["numpy"] == np.__version__
    assert written["machine"]["python"] == platform.python_version()
    assert [path.name for path in tmp_path.iterdir() if path.name != "checkout"] == ["out.json"]


def test_without_a_file_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Record("example.py", parsed()).add("speed", {"seconds": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_given_as_text_loses_its_folders() -> None:
    file = Path("models/large").absolute()
    assert Record("example.py", parsed("--model", str(file))).data["arguments"]["model"] == "large"
    given = Record("example.py", parsed("--model", "owner/large")).data["arguments"]
    assert given["model"] == "owner/large"


def test_a_changed_file_makes_a_checkout_dirty_and_a_new_one_does_not(checkout: Path) -> None:
    (checkout / "out.json").write_text("{}", "utf-8")
    assert record.state_of(checkout)["is_dirty"] is False
    (checkout / "file").write_text("b", "utf-8")
    assert record.state_of(checkout)["is_dirty"] is True


def test_a_copy_inside_of_another_checkout_does_not_have_its_commit(checkout: Path) -> None:
    inside = checkout / "copy"
    inside.mkdir()
    assert record.state_of(inside) == {"commit": None, "is_dirty": None}


def test_what_a_system_lacks_is_replaced_or_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(record.os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(record.os, "sysconf", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(record, "_read", empty)
    assert record.cores() >= 1
    assert record.memory_gib() is None
    assert record.processor()
    assert record.state_of(ROOT) == {"commit": None, "is_dirty": None}


# ---- every benchmark, and every file ---------------------------------------------------------


@functools.cache
def calls(file: Path) -> list[str]:
    nodes = ast.walk(ast.parse(file.read_text("utf-8")))
    return [ast.unparse(node) for node in nodes if isinstance(node, ast.Call)]


def test_each_benchmark_with_a_command_line_writes_such_a_file() -> None:
    commands = {
        file.name: calls(file)
        for file in BENCHES
        if any("ArgumentParser(" in call for call in calls(file))
    }
    without = {
        name
        for name, found in commands.items()
        if "add_option(parser)" not in found
        or not any(call.startswith("Record(__file__, ") for call in found)
        or not any(call.startswith("record.add(") for call in found)
    }
    assert without == set(OTHER_COMMANDS)
    own = [name for name, found in commands.items() if any("'--json'" in call for call in found)]
    assert own == []


def test_each_benchmark_of_a_page_is_there_and_writes_such_a_file() -> None:
    named = {
        name
        for page in PAGES
        for name in re.findall(r"python bench/([a-z_]+\.py)", page.read_text("utf-8"))
    }
    assert len(named) > 10
    files = {file.name: file for file in BENCHES}
    assert named <= set(files)
    assert [name for name in named if "add_option(parser)" not in calls(files[name])] == []


@pytest.mark.parametrize("file", MEASURED, ids=lambda file: file.stem)
def test_a_measured_file_has_the_form_and_names_nobody(file: Path) -> None:
    text = file.read_text("utf-8")
    written: dict[str, Any] = json.loads(text)
    assert set(written) - {"against"} == set(Record("", parsed()).data)
    assert (ROOT / "bench" / written["bench"]).is_file()
    day = written["started"][:10]
    assert file.stem.startswith(f"{Path(written['bench']).stem}-{day}")
    assert re.fullmatch("[0-9a-f]{40}", written["commit"])
    assert written["is_dirty"] is False
    assert all(row["table"] for row in written["rows"])
    assert re.search(r'"(/|[A-Z]:|~)', text) is None, "a path"
