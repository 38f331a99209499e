"""Places of a pool, and whose they are."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis2_server.jobs.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Collection

NO_EXECUTOR: Any = None


def pool(size: int = 2, spare: int = 1, *held: str) -> Pool:
    pool = Pool(NO_EXECUTOR, size, spare)
    for client in held:
        pool.take_place([client])
    return pool


@pytest.mark.parametrize(
    ("held", "has_room", "for_a", "for_b"),
    [
        ("", True, True, True),
        ("a", True, True, True),
        ("aa", True, False, True),
        ("aaa", False, False, False),
        ("ab", True, False, False),
    ],
)
def test_the_spare_place_is_for_a_client_without_one(
    held: str,
    has_room: bool,  # noqa: FBT001 - a parameter of the test, like the next ones
    for_a: bool,  # noqa: FBT001
    for_b: bool,  # noqa: FBT001
) -> None:
    taken = pool(2, 1, *held)
    assert taken.has_room is has_room
    assert taken.has_room_for(["a"]) is for_a
    assert taken.has_room_for(["b"]) is for_b
    assert taken.has_room_for(["a", "b"]) is (for_a or for_b)


def test_a_call_of_nobody_counts_as_one_clients() -> None:
    taken = pool(1, 1)
    assert taken.is_any_idle([])
    assert taken.take_place([]) == ""
    assert not taken.is_any_idle([])
    assert taken.has_room
    assert not taken.has_room_for([])
    assert not taken.has_room_for([""])
    assert taken.has_room_for(["a"])


def test_the_client_with_the_fewest_places_is_charged() -> None:
    taken = pool(9, 0, "a", "a", "b")
    assert taken.take_place(["a", "b"]) == "b"
    assert taken.take_place(["a", "c"]) == "c"
    assert taken.held == Counter(a=2, b=2, c=1)


def test_a_pool_is_stuck_when_every_place_hangs() -> None:
    taken = pool(1, 1)
    for is_stuck in (False, True):
        client = taken.take_place(["a"])
        taken.leave_place(client, is_hung=True)
        assert taken.is_stuck is is_stuck
    assert (taken.running, taken.hung, taken.held) == (2, 2, Counter())
    taken.hung -= 1
    assert not taken.is_stuck


@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "leave", "hang"]), st.lists(st.sampled_from("abc"))),
        max_size=30,
    )
)
def test_places_are_conserved_whatever_happens(events: list[tuple[str, Collection[str]]]) -> None:
    """Every call is one client's or hangs, and no client is remembered without one."""
    taken, running = pool(3, 1), []
    hung = 0
    for what, clients in events:
        if what == "take" and taken.has_room_for(clients):
            running.append(taken.take_place(clients))
        elif what != "take" and running:
            taken.leave_place(running.pop(0), is_hung=what == "hang")
            hung += what == "hang"
        assert taken.held == Counter(running)
        assert all(taken.held.values())
        assert (taken.running, taken.hung) == (len(running) + hung, hung)
        assert taken.running <= 4
        assert taken.has_room is (taken.running < 4)
        assert taken.is_stuck is (hung == 4)
