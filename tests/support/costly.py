"""A pytest plugin: of the tests marked `costly`, one in six runs, others for each commit.

They are many cases of few kinds, each of which costs seconds of processor time. `--all` runs all of
them; a test that is named on the command line, or is in a file that is, runs always, but with
`--draw`. `@pytest.mark.costly("name")`: the tests of a name share what is costly, and run together
or not at all.
"""

from __future__ import annotations

import hashlib
import subprocess
from typing import Final

import pytest

#: One of so many runs.
SHARE: Final = 6

_commit = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help=f"run all costly tests, not 1 of {SHARE}")
    parser.addoption(
        "--draw", action="store_true", help=f"run 1 of {SHARE} costly tests of named files, too"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"costly(name): takes seconds of processor time; 1 of {SHARE} runs, see --all"
    )
    config.stash[_commit] = _head(config)


def pytest_report_header(config: pytest.Config) -> str:
    if config.option.all:
        return "costly tests: all"
    return f"costly tests: 1 of {SHARE}, chosen by commit {config.stash[_commit] or '(none)'}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.all or (_are_named(config) and not config.option.draw):
        return
    commit = config.stash[_commit]
    left_out = [
        item
        for item in items
        if (marker := item.get_closest_marker("costly"))
        and not is_chosen(*(marker.args or (item.nodeid,)), commit=commit)
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


def is_chosen(name: str, *, commit: str) -> bool:
    """Return whether a costly test, or the tests that share a name, run for a commit."""
    digest = hashlib.sha256(f"{commit} {name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % SHARE == 0


def _are_named(config: pytest.Config) -> bool:
    """Return whether the command line chose tests by words, files or names, not by folders."""
    return bool(config.option.keyword) or any(
        "::" in each or each.endswith(".py") for each in config.args
    )


def _head(config: pytest.Config) -> str:
    """Return the short hash of the commit; empty outside of a repository."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "--short=10", "HEAD"],
            cwd=config.rootpath,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return result.stdout.strip()
