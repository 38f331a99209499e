"""A pytest plugin that makes avoidable skips an error.

On a developer's machine, tests that need a missing tool are skipped with a reason. If
`TRELLIS2_SERVER_NO_SKIPS` is set, as in `.ci/run`, only the reasons in `ALLOWED` are accepted.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

#: Prefixes of the accepted reasons.
ALLOWED = ["needs a CUDA device", "needs Blender", "needs TRELLIS2_HOME", "needs root"]
if importlib.util.find_spec("torch") is None:
    # `.ci/run` runs these tests later, with torch.
    ALLOWED.append("needs torch")

if importlib.util.find_spec("ray") is None:
    # `.ci/run` runs these tests later, with Ray.
    ALLOWED.append("needs ray")
if os.environ.get("TRELLIS2_SERVER_TESTS_ON"):
    ALLOWED.append("needs the single process")

_skipped: list[tuple[str, str]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        if not reason.startswith(tuple(ALLOWED)):
            _skipped.append((report.nodeid, reason))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("TRELLIS2_SERVER_NO_SKIPS") and _skipped:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("TRELLIS2_SERVER_NO_SKIPS"):
        for nodeid, reason in _skipped:
            terminalreporter.write_line(f"SKIPPED, and that is an error here: {nodeid}: {reason}")
