"""What the measurements must reach, and what they reached.

Does not know: how a value is measured, how a check is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Threshold:
    """A limit of one column.

    Attributes:
        what: for a reader.
        part: that measures it.
        column: of its rows.
        most: largest value that passes.
        unit: of the value.
    """

    what: str
    part: str
    column: str
    most: float
    unit: str


THRESHOLDS: Final = (
    Threshold("overhead of the engine over bare calls", "512", "overhead_percent", 2.0, "%"),
    Threshold("overhead of the engine over bare calls", "whole", "overhead_percent", 2.0, "%"),
    Threshold("growth of memory over ten jobs", "leaks", "growth_percent", 1.0, "%"),
    Threshold("`/healthcheck` beside three jobs, p99", "tests", "healthcheck_p99_ms", 25.0, "ms"),
    Threshold("sampling beside two exports over alone", "beside", "slower_percent", 5.0, "%"),
)


@dataclass(frozen=True, slots=True)
class Check:
    """A threshold and the largest value that was measured.

    Attributes:
        threshold: the limit.
        row: what was measured, by the row's own labels; empty without a value.
        value: None if nothing was measured.
        counts: whether a value over the limit is a failure: on a CPU and with tiny models,
            other programs and fixed costs decide.
    """

    threshold: Threshold
    row: str
    value: float | None
    counts: bool

    @property
    def passed(self) -> bool | None:
        """Whether the value is within the limit; None without a value."""
        return None if self.value is None else self.value <= self.threshold.most

    @property
    def verdict(self) -> str:
        """Return "pass", "FAIL", "not measured", or that it does not count."""
        if self.passed is None:
            return "not measured"
        if not self.counts:
            return "not checked: tiny models or no GPU"
        return "pass" if self.passed else "FAIL"


def checks(report: dict[str, Any]) -> Iterator[Check]:
    """Compare each threshold with the report's rows, one check for each row that has a value."""
    about = report["about"]
    counts = about.get("size") == "full" and not str(about.get("device", "")).startswith("cpu")
    for threshold in THRESHOLDS:
        rows = report["parts"].get(threshold.part, {}).get("rows", [])
        found = [row for row in rows if isinstance(row.get(threshold.column), int | float)]
        for row in found:
            label = str(row.get("what") or row.get("type") or threshold.part)
            yield Check(threshold, label, float(row[threshold.column]), counts)
        if not found:
            yield Check(threshold, "", None, counts)


def failures(report: dict[str, Any]) -> list[str]:
    """One sentence for everything that failed."""
    found: list[str] = []
    for name, part in report["parts"].items():
        if part["state"] in ("failed", "cut off", "missing"):
            found.append(f"{name}: {part['state']}: {part.get('why', '')}")
        for row in part["rows"]:
            if "error" in row:
                labels = [str(row[key]) for key in ("what", "type", "patches") if key in row]
                found.append(f"{name}: {', '.join(labels)}: {row['error']}")
    found += [
        f"{check.threshold.part}: {check.threshold.what} ({check.row}): {check.value:.2f} "
        f"{check.threshold.unit} is over {check.threshold.most:g} {check.threshold.unit}"
        for check in checks(report)
        if check.verdict == "FAIL"
    ]
    return found
