from __future__ import annotations

from typing import Any

from tests.gpu.tables import document
from tests.gpu.thresholds import checks, failures


def report(
    size: str = "full", device: str = "cuda", **parts: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "about": {"device": device, "device_name": "A card, 80 GiB", "size": size},
        "parts": {
            name.strip("_"): {"title": "Title", "state": "done", "seconds": 1.0, "rows": rows}
            for name, rows in parts.items()
        },
    }


def verdicts(made: dict[str, Any], column: str) -> list[str]:
    return [check.verdict for check in checks(made) if check.threshold.column == column]


def test_values_within_the_limits_pass() -> None:
    made = report(
        _512=[{"type": "512", "overhead_percent": 1.9}],
        leaks=[{"what": "device", "growth_percent": 0.5}],
        tests=[{"what": "three jobs", "healthcheck_p99_ms": 12.0}],
        beside=[{"what": "beside", "slower_percent": -1.0}],
    )
    assert sorted(c.verdict for c in checks(made)) == ["not measured", *["pass"] * 4]
    assert failures(made) == []
    assert "Nothing failed." in document(made)


def test_each_value_over_its_limit_is_a_failure() -> None:
    made = report(
        _512=[{"type": "512", "overhead_percent": 2.1}],
        whole=[{"type": "1024", "overhead_percent": 0.1}, {"type": "x", "overhead_percent": 9.0}],
        leaks=[{"what": "device", "growth_percent": 1.01}],
        tests=[{"what": "three jobs", "healthcheck_p99_ms": 26.0}],
        beside=[{"what": "beside", "slower_percent": 5.5}],
    )
    assert len(failures(made)) == 5
    assert verdicts(made, "overhead_percent") == ["FAIL", "pass", "FAIL"]
    text = document(made)
    assert "| overhead of the engine over bare calls | 512 | 2 % | 2.10 % | FAIL |" in text
    assert "- leaks: growth of memory over ten jobs (device): 1.01 % is over 1 %" in text


def test_nothing_is_judged_on_a_cpu_or_with_tiny_models() -> None:
    rows = [{"type": "512", "overhead_percent": 40.0}]
    for made in (report(size="tiny", _512=rows), report(device="cpu", _512=rows)):
        assert failures(made) == []
        assert verdicts(made, "overhead_percent")[0] == "not checked: tiny models or no GPU"


def test_a_row_with_an_error_and_parts_that_did_not_end_are_failures() -> None:
    made = report(steps=[{"what": "shape", "error": "OutOfMemoryError: no | luck"}])
    for state in ("failed", "cut off", "missing", "no time", "not started"):
        made["parts"][state] = {"title": "", "state": state, "why": "a reason", "rows": []}
    found = failures(made)
    assert found[0] == "steps: shape: OutOfMemoryError: no | luck"
    assert [line.split(":")[0] for line in found[1:]] == ["failed", "cut off", "missing"]
    assert "- steps: shape: OutOfMemoryError: no \\| luck" in document(made)


def test_each_kind_of_row_has_a_table_with_its_own_columns() -> None:
    made = report(
        probe=[
            {"table": "speed", "what": "a", "seconds": 0.25},
            {"table": "speed", "what": "b", "bytes": 12345678.9},
            {"table": "kernels", "kernel": "x|y", "ok": True},
        ]
    )
    text = document(made)
    assert "\nspeed\n\n| what | seconds | bytes |\n| --- | --- | --- |\n| a | 0.25 |  |\n" in text
    assert "| b |  | 12345679 |" in text
    assert "\nkernels\n\n| kernel | ok |\n| --- | --- |\n| x\\|y | yes |\n" in text


def test_the_document_says_that_the_weights_were_random_and_names_the_card() -> None:
    text = document(report(size="tiny"))
    assert text.startswith("# TRELLIS.2 on A card, 80 GiB\n")
    assert "**random weights** and were **tiny**" in text
    assert "Nothing here is known about the real weights" in text
