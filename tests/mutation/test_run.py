from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.mutation import run, survivors
from tests.mutation.operators import mutants
from tests.support.interpreter import ROOT

if TYPE_CHECKING:
    from pathlib import Path

MODULE = '''"""A module."""
def larger(a, b):
    return a if a > b else b
'''
TEST = """from trellis2_server.jobs.module import larger
def test_larger():
    assert larger(1, 2) == 2
"""
SLOW = """from trellis2_server.jobs.module import larger
def test_slow():
    while True:
        pass
def test_next():
    assert larger(1, 1) == 1
"""


def arguments(**changed: Any) -> argparse.Namespace:
    usual = {"room": None, "file": None, "sample": 0, "seed": "", "changed_since": None}
    return argparse.Namespace(**{**usual, "latest": False, **changed})


def test_the_same_seed_draws_the_same_mutants() -> None:
    file = ["trellis2_server/jobs/queue.py"]
    first, again, other = (
        run.draw(arguments(file=file, sample=10, seed=seed)) for seed in ("a", "a", "b")
    )
    assert first == again
    assert first != other
    assert len(first) == 10


def test_all_mutants_of_a_file_are_drawn_without_a_sample() -> None:
    path = "trellis2_server/jobs/uploads.py"
    source = (ROOT / path).read_bytes()
    wanted = [each for each in mutants(path, source) if each.compiles(source)]
    assert run.draw(arguments(file=[path])) == wanted


def test_the_share_leaves_out_what_is_listed() -> None:
    rows = [
        {"room": "jobs", "reason": None, "is_noticed": True},
        {"room": "jobs", "reason": None, "is_noticed": False},
        {"room": "jobs", "reason": "equivalent: no", "is_noticed": False},
        {"room": "api", "reason": None, "is_noticed": True},
    ]
    scores = run.scores(rows)
    assert list(scores) == ["api", "jobs", "all"]
    assert scores["jobs"] == {"mutants": 3, "listed": 1, "noticed": 1, "share": 0.5}
    assert scores["all"]["share"] == pytest.approx(2 / 3)


def test_each_listed_survivor_has_a_reason_and_still_exists() -> None:
    known: dict[str, set[tuple[str, str, str, str]]] = {}
    for entry in survivors.read():
        path = entry["file"]
        if path not in known:
            source = (ROOT / path).read_bytes()
            known[path] = {survivors.key_of(each) for each in mutants(path, source)}
        assert entry["reason"].startswith(survivors.REASONS)
        assert survivors.key(entry) in known[path], entry


def test_a_survivor_is_matched_wherever_its_line_is(tmp_path: Path) -> None:
    source = b"def f(a):\n    return a < 1\n"
    mutant = next(each for each in mutants("m.py", source) if each.operator == "comparison")
    listed = tmp_path / "survivors.toml"
    listed.write_text(
        '[[survivor]]\nfile = "m.py"\nfunction = "f"\nbefore = "return a < 1"\n'
        'after = "return a <= 1"\nreason = "equivalent: for this test"\n'
    )
    reasons = survivors.reasons(listed)
    assert reasons[survivors.key_of(mutant)] == "equivalent: for this test"
    moved = next(
        each for each in mutants("m.py", b"\n\n" + source) if each.operator == "comparison"
    )
    assert survivors.key_of(moved) in reasons


@pytest.mark.costly
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_mutant_is_noticed_by_the_test_that_fails_and_survives_otherwise(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.mutation.operators import mutants
from tests.mutation.runner import Runner, warm_up
warm_up()
tree = Path({str(tmp_path / "tree")!r})
module, tests = tree / "trellis2_server/jobs/module.py", tree / "tests/jobs"
for path, text in (
    (module, {MODULE!r}), (tests / "test_module.py", {TEST!r}), (tests / "test_slow.py", {SLOW!r})
):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
(tree / "pytest.ini").write_text("[pytest]\\naddopts = --import-mode=importlib\\npythonpath = .\\n")
runner = Runner(tree, Path({str(tmp_path / "scratch")!r}))
files = ["tests/jobs/test_module.py", "tests/jobs/test_slow.py", "tests/jobs/test_none.py"]
limits = {{"limit_s": 60, "longest_s": 2}}
for measured in runner.measure(files, is_compiled=True, **limits):
    print([(name, each.lines) for name, each in measured.tests.items()])
[measured] = runner.measure(files[:1], is_compiled=True, **limits)
known = {{name: each.seconds for name, each in measured.tests.items()}}
for mutant in mutants("trellis2_server/jobs/module.py", module.read_bytes()):
    noticed = runner.noticed(mutant, [known], is_compiled=True)
    print(mutant.after, "|", noticed and noticed.by)
assert module.read_text() == {MODULE!r}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    name = "tests/jobs/test_module.py::test_larger"
    assert done.stdout.splitlines() == [
        str([(name, {"trellis2_server/jobs/module.py": 1 << 3})]),
        str([("tests/jobs/test_slow.py::test_next", {"trellis2_server/jobs/module.py": 1 << 3})]),
        "[]",
        f"return None | {name}",
        f"return a if not (a > b) else b | {name}",
        "return a if a >= b else b | None",
    ], done.stderr
