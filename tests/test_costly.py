from __future__ import annotations

import os
import subprocess
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.costly import SHARE, is_chosen

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]

FILE = """
    import pytest

    @pytest.mark.costly
    @pytest.mark.parametrize("number", range(30))
    def test_alone(number): pass

    @pytest.mark.costly("name")
    @pytest.mark.parametrize("number", range(30))
    def test_together(number): pass

    def test_cheap(): pass
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., list[str]]:
    """Return a function that runs the tests of a folder and returns the names of those that ran."""
    (pytester.mkdir("folder") / "test_some.py").write_text(textwrap.dedent(FILE))

    def names(*arguments: str) -> list[str]:
        done = pytester.inline_run("-p", "tests.support.costly", *arguments)
        return [report.location[2] for report in done.listoutcomes()[0]]

    return names


@pytest.mark.parametrize("arguments", [["folder"], ["folder/test_some.py", "--draw"]])
def test_a_share_of_the_costly_tests_and_all_others_run(
    run: Callable[..., list[str]], arguments: list[str]
) -> None:
    names = run(*arguments)
    assert "test_cheap" in names
    assert 0 < sum(name.startswith("test_alone") for name in names) < 30
    assert sum(name.startswith("test_together") for name in names) in {0, 30}


@pytest.mark.parametrize(
    "arguments",
    [["folder", "--all"], ["folder/test_some.py"], ["folder", "-k", "alone or together or cheap"]],
)
def test_what_is_asked_for_runs_whole(run: Callable[..., list[str]], arguments: list[str]) -> None:
    assert len(run(*arguments)) == 61


def test_every_costly_test_has_its_commits() -> None:
    commits = [f"{number:010x}" for number in range(100)]
    shares = [
        sum(is_chosen(f"test_{number}", commit=commit) for commit in commits)
        for number in range(100)
    ]
    assert min(shares) > 0
    assert abs(sum(shares) / 10_000 - 1 / SHARE) < 0.02


@pytest.mark.skipif(os.name == "nt", reason="CI's scripts are for Linux")
@pytest.mark.parametrize("number", range(13))
def test_a_share_of_files_has_one_at_least_for_each_commit(number: int) -> None:
    """Without files pytest would run all tests, on Ray."""
    script = (ROOT / ".ci/check").read_text()
    function = script[script.index("share_of() {") :].partition("\n}\n")[0] + "\n}\n"
    for files in (list("ab"), list("abcdefghijk"), [f"f{n}" for n in range(25)]):
        run = subprocess.run(
            [
                "bash",
                "-c",
                f"{function}git() {{ echo {number:x}; }}; share_of 12 {' '.join(files)}",
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        assert run.stdout.split() == files[number % min(12, len(files)) :: 12]
