from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.gpu.budget import Budget
from tests.gpu.part import Estimate, Part
from tests.gpu.report import Report
from tests.gpu.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., dict[str, Any]]

SHORT_S = 0.5
#: What parts of these tests do, by module.
CODE = {
    "works": "session.row('numbers', what='a', seconds=1.5)",
    "prints": "print('not a message'); session.row('numbers', what='b')",
    "fails": "session.row('numbers', what='c'); raise ValueError('no\\nluck')",
    "fails_in_a_row": (
        "def work(): raise ValueError('here')\n"
        "    session.attempt('numbers', {'what': 'd'}, 0.0, work)\n"
        "    session.row('numbers', what='e')"
    ),
    "hangs": "session.row('numbers', what='f'); threading.Event().wait()",
    # As in a call of a driver: no signal of Python's gets through.
    "hangs_in_a_library": (
        "session.row('numbers', what='g')\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n"
        "    threading.Event().wait()"
    ),
    "dies": "session.row('numbers', what='h'); os.kill(os.getpid(), signal.SIGKILL)",
    "leaves": "raise SystemExit(3)",
    "tells_its_process": "session.row('numbers', pid=os.getpid())",
    "has_no_time": "session.attempt('numbers', {'what': 'i'}, 1e9, dict)",
    "is_slow": "session.note_speed(7.0)",
}


def part(name: str, **more: Any) -> Part:
    return Part(name, f"part_that_{name}", name, Estimate(0.1, 0.1, 0.1, ""), (), **more)


class ShortLimits(Budget):
    """A budget that cuts off soon those parts that hang."""

    def limit_s(self, estimate: Estimate) -> float:
        del estimate
        return SHORT_S if self.is_short else 60.0

    is_short = False


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name, code in CODE.items():
        text = f"import os\nimport signal\nimport threading\n\ndef run(session):\n    {code}\n"
        (tmp_path / f"part_that_{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def start(*parts: Part, seconds: float = 100.0, is_short: bool = False) -> dict[str, Any]:
        file = tmp_path / "report.json"
        report = Report({"device": "cpu", "size": "full"}, file, None)
        budget = ShortLimits(seconds, is_tiny=False)
        budget.is_short = is_short
        options = {"device": "cpu", "size": "full"}
        Supervisor(options, report, budget, grace_s=SHORT_S).run(parts)
        found = json.loads(file.read_text())
        found["slowness"] = budget.slowness
        return found

    return start


def whats(report: dict[str, Any], name: str) -> list[str]:
    return [row["what"] for row in report["parts"][name]["rows"]]


def test_a_part_fills_its_rows(run: Run) -> None:
    found = run(part("works"))["parts"]["works"]
    assert found["state"] == "done"
    assert found["rows"] == [{"table": "numbers", "what": "a", "seconds": 1.5}]


def test_what_a_library_prints_is_no_message(run: Run) -> None:
    found = run(part("prints"))
    assert found["parts"]["prints"]["state"] == "done"
    assert whats(found, "prints") == ["b"]


def test_a_part_that_fails_is_reported_and_the_others_follow(run: Run) -> None:
    found = run(part("fails"), part("leaves"), part("works"))
    assert found["parts"]["fails"]["state"] == "failed"
    assert found["parts"]["fails"]["why"] == "ValueError: no luck"
    assert whats(found, "fails") == ["c"]
    assert found["parts"]["leaves"]["why"] == "SystemExit: 3"
    assert found["parts"]["works"]["state"] == "done"


def test_a_row_that_fails_has_its_error_and_the_other_rows_follow(run: Run) -> None:
    found = run(part("fails_in_a_row"))["parts"]["fails_in_a_row"]
    assert found["rows"][0]["error"] == "ValueError: here"
    assert whats({"parts": {"x": found}}, "x") == ["d", "e"]


@pytest.mark.parametrize("name", ["hangs", "hangs_in_a_library"])
def test_a_part_that_hangs_is_cut_off_and_the_others_follow(run: Run, name: str) -> None:
    found = run(part(name), part("works"), is_short=True)
    assert found["parts"][name]["state"] == "cut off"
    assert whats(found, name) == (["f"] if name == "hangs" else ["g"])
    assert whats(found, "works") == ["a"]


def test_a_process_that_dies_costs_only_its_part(run: Run) -> None:
    found = run(part("dies"), part("works"))
    assert found["parts"]["dies"]["state"] == "failed"
    assert found["parts"]["dies"]["why"] == "its process ended with status -9"
    assert whats(found, "dies") == ["h"]
    assert whats(found, "works") == ["a"]


def test_parts_share_a_process_except_those_that_need_their_own(run: Run) -> None:
    def named(name: str, *, is_alone: bool = False) -> Part:
        module = "part_that_tells_its_process"
        return Part(name, module, "", Estimate(0.1, 0.1, 0.1, ""), (), is_alone=is_alone)

    found = run(named("a"), named("b"), named("c", is_alone=True), named("d"))["parts"]
    a, b, c, d = (found[name]["rows"][0]["pid"] for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def test_a_part_that_does_not_fit_into_the_budget_is_not_started(run: Run) -> None:
    long = Part("long", "part_that_hangs", "", Estimate(90, 10, 1, ""), ())
    found = run(long, part("works"), seconds=100.0)["parts"]
    assert found["long"]["state"] == "no time"
    assert found["long"]["why"] == "estimated 100 s, 96 s are left"
    assert found["works"]["state"] == "done"


def test_a_row_without_time_says_so(run: Run) -> None:
    (row,) = run(part("has_no_time"))["parts"]["has_no_time"]["rows"]
    assert row["skipped"].startswith("no time")
    assert "error" not in row


def test_a_part_whose_packages_are_missing_says_so(run: Run) -> None:
    lacking = Part("x", "part_that_works", "", Estimate(0.1, 0.1, 0.1, ""), ("no_such_package",))
    found = run(lacking, part("works"))["parts"]
    assert found["x"]["state"] == "missing"
    assert found["x"]["why"] == "this Python lacks no_such_package"
    assert found["works"]["state"] == "done"


def test_the_measured_speed_reaches_the_budget(run: Run) -> None:
    slow = Part("slow", "part_that_is_slow", "", Estimate(0.1, 0.0, 0.1, ""), ())
    assert run(slow)["slowness"] == 7.0


def test_the_reports_file_is_whole_after_every_row(tmp_path: Path) -> None:
    json_file, markdown_file = tmp_path / "gpu.json", tmp_path / "gpu.md"
    report = Report({"device": "cpu", "size": "tiny"}, json_file, markdown_file)
    works = part("works")
    report.begin(works, 1.0)
    for number in range(3):
        report.add_row(works, {"table": "numbers", "n": number})
        rows = json.loads(json_file.read_text())["parts"]["works"]["rows"]
        assert [row["n"] for row in rows] == list(range(number + 1))
        assert markdown_file.read_text().count("\n| 0 |") == 1
    assert json.loads(json_file.read_text())["parts"]["works"]["state"] == "running"
    assert {f.name for f in tmp_path.iterdir()} == {"gpu.json", "gpu.md"}
