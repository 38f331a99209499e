"""Hostile files and clients against a real server, with the harm that no slow machine explains.

`python bench/hostile.py` has all attacks, and judges times and memory too.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench import hostile
from bench.hostile_judge import delays, figures, harm
from bench.hostile_rows import ROWS, Row
from bench.hostile_send import MAX_BYTES, Attacker
from tests.support.engines import PATIENCE_S
from tests.support.server import ON_RAY

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.skipif(ON_RAY, reason="needs the single process"),
]

ROOT = Path(__file__).resolve().parents[2]
#: The longest attacks are left to the command.
NAMES = (
    "obj-without-area", "stl-needles", "obj-far-apart", "glb-odd-names", "ply-long-face",
    "jpeg-empty-scans", "png-profile-bomb", "tiff-huge-counts",
    "jpeg-reduced-progressive", "gif-transparent-frames", "heic-overlay",
    "punycode-field", "many-parts", "json-nested", "two-lengths", "disconnect-storm",
)  # fmt: skip


@pytest.fixture(scope="module")
def servers() -> Generator[hostile.Servers]:
    caged = hostile.Servers(ROOT, warm_ups=1)
    yield caged
    assert caged.discard() == []


@pytest.mark.costly
@pytest.mark.parametrize("name", NAMES)
def test_an_attack_is_refused_and_hurts_nobody(servers: hostile.Servers, name: str) -> None:
    found = hostile.run(name, servers, look_s=0.5, settle_s=4 * PATIENCE_S, long_s=1)
    assert harm(ROWS[name], found) == [], found.get("log")


def test_there_are_forty_attacks_and_none_may_send_over_five_megabytes() -> None:
    assert len(ROWS) >= 40
    with pytest.raises(AssertionError, match="over 5 MB"):
        Attacker(port=1, pid=1).form(image=bytes(MAX_BYTES))


MEASURED: dict[str, Any] = {
    "good": {"alone_s": [0.1, 0.1, 0.3], "beside_s": [0.1, 0.2], "bad": []},
    "health": {"health_s": [0.001] * 200, "late_s": [0.0] * 200, "bad": []},
    "attack": {"statuses": {"400": 2}, "texts": {"400": "no"}, "slowest_s": 1.0, "most_bytes": 9},
    "growth_bytes": 1_000_000,
    "bodies_bytes": 9,
    "exit_code": None,
    "left": [],
}
HARM = [
    ({"exit_code": 70}, "the server ended with 70"),
    ({"left": ["processes are left: 3, before 1"]}, "processes are left: 3, before 1"),
    ({"attack": {**MEASURED["attack"], "statuses": {"500": 1}}}, "attack: 500 "),
    ({"attack": {**MEASURED["attack"], "statuses": {"-1": 1}}}, "attack: -1 "),
    ({"attack": {**MEASURED["attack"], "error": "no file"}}, "attack: no file"),
    ({"good": {"alone_s": [0.1], "beside_s": [0.1], "bad": ["503 x"]}}, "good client: 503 x"),
    ({"good": {"alone_s": [0.1], "beside_s": [], "bad": []}}, "good client: no picture"),
    ({"health": {**MEASURED["health"], "bad": ["503 y"]}}, "/healthcheck: 503 y"),
]
DELAYS = [
    ({"growth_bytes": 64_100_000}, "memory: +64 MB > 64 MB"),
    ({"attack": {**MEASURED["attack"], "slowest_s": 46.0}}, "attack: it took 46 s"),
    (
        {"good": {"alone_s": [0.1], "beside_s": [0.1, 1.81], "bad": []}},
        "good client: 1.81 s > 1.80 s",
    ),
    (
        {"health": {**MEASURED["health"], "health_s": [0.001] * 9 + [0.051]}},
        "/healthcheck: p99 51 ms",
    ),
    (
        {"health": {**MEASURED["health"], "health_s": [0.001] * 199 + [0.26]}},
        "/healthcheck: at most 260 ms",
    ),
]


def test_a_server_that_stands_an_attack_has_no_problem() -> None:
    found = figures(MEASURED)
    assert harm(Row(ROWS["jpeg-cut"].attack), found) == delays(found) == []


@pytest.mark.parametrize(("change", "problem"), HARM)
def test_harm_is_a_problem(change: dict[str, object], problem: str) -> None:
    assert harm(Row(ROWS["jpeg-cut"].attack), figures({**MEASURED, **change})) == [problem]


@pytest.mark.parametrize(("change", "problem"), DELAYS)
def test_what_takes_too_long_or_too_much_is_a_problem(
    change: dict[str, object], problem: str
) -> None:
    assert problem in delays(figures({**MEASURED, **change}))


@pytest.mark.costly
def test_a_status_that_must_come_is_missed() -> None:
    row = Row(ROWS["jpeg-cut"].attack, frozenset({400, 503}), required=frozenset({503}))
    assert harm(row, figures(MEASURED)) == ["attack: none of [503]"]
