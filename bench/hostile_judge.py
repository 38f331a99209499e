"""Judge one attack: figures, and what is over its bound.

Does not know: how they were measured.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bench.hostile_rows import Row

#: The good client's picture may take this long, and this many times its time alone.
GOOD_S: Final = 1.5
GOOD_TIMES: Final = 3
HEALTH_P99_S: Final = 0.050
HEALTH_MAX_S: Final = 0.250
GROWTH_BYTES: Final = 64_000_000
END_S: Final = 45.0
#: Descriptors that the server may have opened for itself since.
SPARE_DESCRIPTORS: Final = 4


def percentile(values: list[float], share: float) -> float:
    """Return the value below which that share lies; 0 without values."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def figures(measured: dict[str, Any]) -> dict[str, Any]:
    """Return the figures that are judged, from what witnesses and attack report.

    Args:
        measured: `good`, `health` and `attack` as their processes print them; `growth_bytes`,
            `bodies_bytes`, `exit_code`, `left`.
    """
    good, health, attack = measured["good"], measured["health"], measured["attack"]
    alone = statistics.median(good["alone_s"]) if good["alone_s"] else 0.0
    return {
        "good_alone_s": alone,
        "good_limit_s": GOOD_S + GOOD_TIMES * alone,
        "good_max_s": max(good["beside_s"], default=0.0),
        "good_count": len(good["beside_s"]),
        "good_bad": good["bad"],
        "health_p99_ms": 1e3 * percentile(health["health_s"], 0.99),
        "health_max_ms": 1e3 * max(health["health_s"], default=0.0),
        "health_count": len(health["health_s"]),
        "health_bad": health["bad"],
        "late_p99_ms": 1e3 * percentile(health["late_s"], 0.99),
        "late_max_ms": 1e3 * max(health["late_s"], default=0.0),
        "growth_mb": measured["growth_bytes"] / 1e6,
        "growth_limit_mb": (GROWTH_BYTES + measured["bodies_bytes"]) / 1e6,
        "exit_code": measured["exit_code"],
        "attack": attack,
        "left": measured["left"],
    }


def problems(row: Row, found: dict[str, Any]) -> list[str]:
    """Return what is over its bound; nothing if the server stood it."""
    return [*harm(row, found), *delays(found)]


def harm(row: Row, found: dict[str, Any]) -> list[str]:
    """Return what went wrong on any machine, however slow: ends, replies, what is left."""
    bad: list[str] = []
    if found["exit_code"] is not None:
        bad.append(f"the server ended with {found['exit_code']}")
    lost = [text for text in found["good_bad"] if not any(word in text for word in row.tolerated)]
    bad += [f"good client: {text}" for text in lost[:1]]
    if not found["good_count"]:
        bad.append("good client: no picture")
    if found["health_bad"]:
        bad.append(f"/healthcheck: {found['health_bad'][0]}")
    return [*bad, *_attack_problems(row, found["attack"]), *found["left"]]


def delays(found: dict[str, Any]) -> list[str]:
    """Return what took too long or too much memory."""
    bad: list[str] = []
    if found["good_max_s"] > found["good_limit_s"]:
        bad.append(f"good client: {found['good_max_s']:.2f} s > {found['good_limit_s']:.2f} s")
    if found["health_p99_ms"] > 1e3 * HEALTH_P99_S:
        bad.append(f"/healthcheck: p99 {found['health_p99_ms']:.0f} ms")
    if found["health_max_ms"] > 1e3 * HEALTH_MAX_S:
        bad.append(f"/healthcheck: at most {found['health_max_ms']:.0f} ms")
    if found["growth_mb"] > found["growth_limit_mb"]:
        bad.append(f"memory: +{found['growth_mb']:.0f} MB > {found['growth_limit_mb']:.0f} MB")
    if found["attack"]["slowest_s"] > END_S:
        bad.append(f"attack: it took {found['attack']['slowest_s']:.0f} s")
    return bad


def _attack_problems(row: Row, attack: dict[str, Any]) -> list[str]:
    bad: list[str] = []
    if attack.get("error"):
        bad.append(f"attack: {attack['error']}")
    statuses = {int(status) for status in attack["statuses"]}
    bad += [
        f"attack: {status} {attack['texts'].get(str(status), '')[:120]}"
        for status in sorted(statuses - row.allowed)
    ]
    if row.required and not statuses & row.required:
        bad.append(f"attack: none of {sorted(row.required)}")
    return bad
