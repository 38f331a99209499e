from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.mutation.reach import Measured, MeasuredFile, MeasuredFiles, bits
from tests.support.interpreter import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FILE = "tests/test_a.py"
MEASURED = MeasuredFile(1.5, {f"{FILE}::test_b": Measured(0.25, {"m.py": bits([1, 70, 300])})})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("trellis2_server/m.py", "tests/support.py", FILE, "tests/test_other.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def test_a_measurement_is_kept_by_file_and_kind(root: Path) -> None:
    files = MeasuredFiles(root / "kept", root)
    assert files.get(FILE, "compiled") is None
    files.put(FILE, "compiled", MEASURED)
    assert files.get(FILE, "compiled") == MEASURED
    assert files.get(FILE, "interpreted") is None
    assert files.get("tests/test_other.py", "compiled") is None


@pytest.mark.parametrize("changed", ["trellis2_server/m.py", "tests/support.py", FILE])
def test_a_measurement_of_other_sources_is_none(root: Path, changed: str) -> None:
    MeasuredFiles(root / "kept", root).put(FILE, "compiled", MEASURED)
    (root / "tests/test_other.py").write_text("x = 1\n")
    assert MeasuredFiles(root / "kept", root).get(FILE, "compiled") == MEASURED
    (root / changed).write_text("x = 1\n")
    assert MeasuredFiles(root / "kept", root).get(FILE, "compiled") is None


def test_a_damaged_measurement_is_made_again(root: Path) -> None:
    files = MeasuredFiles(root / "kept", root)
    files.put(FILE, "compiled", MEASURED)
    [path] = (root / "kept").iterdir()
    path.write_text(path.read_text()[:-5])
    assert files.get(FILE, "compiled") is None


def test_lines_are_counted_for_each_test_and_in_threads(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package/m.py").write_text("def f(a):\n    if a:\n        return 1\n    return 2\n")
    (tmp_path / "other.py").write_text("x = 1\n")
    code = f"""
import sys, threading
from pathlib import Path
sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]
from tests.mutation.reach import LineCounter
counter = LineCounter(Path({str(tmp_path)!r}), "package")
import other
from package.m import f
for number in (0, 1, 1):
    counter.begin(f"test {{number}}[é]")
    thread = threading.Thread(target=f, args=(number,))
    thread.start()
    thread.join()
    print(counter.end(f"test {{number}}[é]"))
print(counter.end("none"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    first, second = ({"package/m.py": bits(lines)} for lines in ([2, 4], [2, 3]))
    assert done.stdout.splitlines() == [str(each) for each in (first, second, second, {})], done
