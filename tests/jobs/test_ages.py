"""Ages of finished jobs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis2_server.jobs.ages import RECORD_INTERVAL_S, JobAges


def ages(**finished: float) -> JobAges:
    known = JobAges()
    for uid, at in finished.items():
        known.set(uid, at)
    return known


def test_the_job_that_was_asked_for_least_recently_is_first() -> None:
    known = ages(a=1.0, b=2.0, c=3.0)
    assert list(known.oldest_first()) == [("a", 1.0), ("b", 2.0), ("c", 3.0)]
    known.note_request("a", 4.0)
    assert list(known.oldest_first()) == [("b", 2.0), ("c", 3.0), ("a", 4.0)]
    known.set("b", None)
    assert list(known.oldest_first()) == [("c", 3.0), ("a", 4.0)]


def test_a_job_that_is_not_finished_has_no_age() -> None:
    known = ages(a=1.0)
    known.set("a", None)
    known.set("b", None)
    assert not known.note_request("a", 2.0)
    assert not known.note_request("b", 1e9)
    known.restore({"a": 3.0})
    assert list(known.oldest_first()) == []


def test_a_job_does_not_become_older_by_a_request() -> None:
    known = ages(a=10.0)
    known.note_request("a", 5.0)
    known.restore({"a": 4.0})
    assert list(known.oldest_first()) == [("a", 10.0)]
    known.restore({"a": 12.0})
    assert list(known.oldest_first()) == [("a", 12.0)]


def test_requests_are_recorded_at_most_once_in_an_interval() -> None:
    known = ages(a=100.0)
    assert not known.note_request("a", 100.0 + RECORD_INTERVAL_S - 0.1)
    assert known.note_request("a", 100.0 + RECORD_INTERVAL_S)
    assert not known.note_request("a", 100.0 + 2 * RECORD_INTERVAL_S - 0.1)
    assert known.note_request("a", 100.0 + 2 * RECORD_INTERVAL_S)
    known.set("a", None)
    known.set("a", 100.0)  # finished again
    assert not known.note_request("a", 101.0)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.floats(0, 100)), max_size=40))
def test_the_order_is_that_of_the_times_whatever_was_restored(
    requests: list[tuple[str, float]],
) -> None:
    known, expected = ages(a=3.0, b=1.0, c=2.0), {"a": 3.0, "b": 1.0, "c": 2.0}
    for number, (uid, at) in enumerate(requests):
        if number % 3 == 0:
            known.restore({uid: at})
        else:
            known.note_request(uid, at)
        if uid in expected:
            expected[uid] = max(expected[uid], at)
        if number % 5 == 0:
            found = list(known.oldest_first())
            assert [at for _, at in found] == sorted(at for _, at in found)
    assert dict(known.oldest_first()) == pytest.approx(expected)
    times = [at for _, at in known.oldest_first()]
    assert times == sorted(times)
