from __future__ import annotations

from textwrap import dedent

import pytest

from tests.mutation.choice import TOGETHER, choose, lines_that_run
from tests.mutation.reach import Measured, bits

SOURCE = dedent("""\
    LIMIT = (
        5
    )

    def inner(a, b=LIMIT):
        if (
            a <
            b
        ):
            return 1
        try:
            return a
        except KeyError:
            return (a,
                    b)
    """)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (2, {1, 2, 3, 5}),  # and where the name is used
        (5, set(range(5, 16))),  # a default value: the function
        (8, {6, 7, 8, 9}),  # the condition, not what depends on it
        (10, {10}),
        (13, set(range(11, 16))),
        (15, {14, 15}),
    ],
)
def test_a_change_is_looked_for_where_its_statement_runs(line: int, wanted: set[int]) -> None:
    assert lines_that_run(SOURCE.encode(), line) == bits(wanted)


def measured(seconds: float, *lines: int) -> Measured:
    return Measured(seconds, {"m.py": bits(lines)} if lines else {})


def test_tests_that_run_the_line_come_first_and_the_quickest_first() -> None:
    tests = {
        "a": {"a::elsewhere": measured(0.1), "a::slow": measured(2, 4, 7)},
        "b": {
            "b::file": measured(0.5, 3),
            "b::slow": measured(1.5, 7),
            "b::quick": measured(0.2, 7),
        },
        "c": {"c::quick": measured(0.1, 7, 8)},
    }
    chosen = choose(tests, "m.py", 1 << 7, 20)
    assert [list(tests) for tests in chosen] == [
        ["c::quick"],
        ["a::slow", "a::elsewhere"],
        ["b::quick", "b::slow", "b::file"],
    ]
    assert chosen[0] == {"c::quick": 0.1}


def test_no_more_tests_are_chosen_than_there_is_time_for() -> None:
    some = {"a": {f"a::{number}": measured(1, 7) for number in range(20)}}
    some["b"] = {"b::too long": measured(3.4, 7), "b::elsewhere": measured(1)}
    [chosen] = choose(some, "m.py", 1 << 7, 10)
    assert len(chosen) == 9
    assert choose(some, "m.py", 1 << 7, 0.1) == []
    assert choose({}, "m.py", 1 << 7, 10) == []


def test_many_quick_tests_of_a_file_leave_time_for_the_slower_one_of_another() -> None:
    some = {"a": {f"a::{number}": measured(0.5 + number / 100, 7) for number in range(30)}}
    some["b"] = {"b::slow": measured(3, 7), "b::slower": measured(3.2, 7)}
    chosen = choose(some, "m.py", 1 << 7, 10)
    assert [list(tests) for tests in chosen] == [
        [f"a::{number}" for number in range(6)],
        ["b::slow", "b::slower"],
    ]


def test_the_file_that_mirrors_the_changed_one_has_more_tests_than_others() -> None:
    others = {f"b{n}": {f"b{n}::{k}": measured(0.1, 7) for k in range(20)} for n in range(10)}
    some = others | {"t/test_m.py": {f"t::{n}": measured(0.3, 7) for n in range(20)}}
    chosen = choose(some, "m.py", 1 << 7, 10)
    *counts, most = sorted(len(tests) for tests in chosen)
    assert most > TOGETHER > max(counts) >= min(counts) >= 2


def test_where_no_test_runs_the_line_those_of_the_nearest_files_are_chosen() -> None:
    some = {name: {f"{name}::{n}": measured(1 + n / 2) for n in range(2)} for name in "cba"}
    assert [list(tests) for tests in choose(some, "m.py", 1 << 7, 5)] == [
        ["b::0"],
        ["c::0", "c::1"],
    ]
