"""Jobs in every order of requests, faults and time: each ends once, and everybody is answered.

TRELLIS2_TEST_EXAMPLES sets the number of orders that are tried (60); thousands take minutes.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.support.job_model import invariants
from tests.support.job_model.executor import DECODER_ENDS
from tests.support.job_model.faults import FAULTS
from tests.support.job_model.happenings import OTHERS, OWN, STRANGER
from tests.support.job_model.leftovers import Complaints
from tests.support.job_model.states import (
    CUTOUT,
    GIVEN,
    SHAPE,
    SHAPE_EXPORT,
    STATES,
    TEXTURE,
    WORLDS,
    state_of,
)
from tests.support.job_model.world import ABANDONED_S, GRACE_S, IDLE_S, TIMEOUT_S, World
from trellis2_server.errors import (
    EngineBrokenError,
    EngineError,
    QueueFullError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = int(os.environ.get("TRELLIS2_TEST_EXAMPLES", "60"))
#: Choices of a move: it takes the rest of a division of it for each thing that it chooses.
CHOICES = 840

#: Seeds of jobs: with a picture, with two (3 and 7), and with a mesh, too.
SEEDS = (1, 3, 2, 7, GIVEN, GIVEN + 2)
CALLERS = (OWN, OTHERS, STRANGER)
TEXTURES = (True, None, False)

#: Worlds that begin without a job, beside those that begin with one in some state.
EMPTY: dict[str, dict[str, int]] = {
    "one at a time": {"limit": 1, "cpu_workers": 1, "decoders": 1},
    "many": {"limit": 4},
}

#: How often each fault has met each state.
met: Counter[tuple[str, str]] = Counter()


def submit(world: World, choice: int) -> None:
    choice, seed = divmod(choice, len(SEEDS))
    choice, caller = divmod(choice, len(CALLERS))
    choice, texture = divmod(choice, len(TEXTURES))
    variant = "other" if choice % 4 == 0 else ""
    is_open = world.is_open
    try:
        world.submit(
            SEEDS[seed], texture=TEXTURES[texture], caller=CALLERS[caller], variant=variant
        )
    except QueueFullError:
        assert is_open
    except UnavailableError:
        assert not is_open
    else:
        assert is_open


def go_on(world: World, choice: int, *, outcome: Callable[[], object] = lambda: None) -> None:
    """A call goes on from its gate."""
    places = world.gates.places()
    if places:
        place = places[choice % len(places)]
        is_engines = place.step not in {"save", "unload"}
        world.gates.let_go(place, outcome() if is_engines else None)
        world.loop.settle()


def end_decoder(world: World, choice: int, *, outcome: Callable[[], object]) -> None:
    places = world.gates.places(None, "decode_image", "read_mesh")
    if places:
        world.gates.let_go(places[choice % len(places)], outcome())
        world.loop.settle()


def wait_for_model(world: World, choice: int) -> None:
    places = world.gates.places(None, "decode_image")
    if places:
        world.gates.let_go(places[choice % len(places)], "pending")
        world.loop.settle()


def load_models(world: World, choice: int) -> None:
    del choice
    world.load_models()


def reach_both_branches(world: World, choice: int) -> None:
    """A job's shape is exported beside its texture; one of both fails."""
    seed, first = SEEDS[choice % 4], (SHAPE_EXPORT, TEXTURE)[choice // 4 % 2]
    submit(world, SEEDS.index(seed))
    for step, outcome in ((CUTOUT, None), (SHAPE, None), (first, EngineError("no"))):
        for place in world.gates.places(seed, step):
            if place in world.gates.at:
                world.gates.let_go(place, outcome)
                world.loop.settle()


def happen(world: World, choice: int, *, name: str) -> None:
    """Something happens to one of the jobs."""
    if not world.asked:
        return
    asked = world.asked[choice % len(world.asked)]
    state = state_of(world, asked)
    if state != "removed" and FAULTS[name].applies(state):
        met[state, name] += 1
        try:
            FAULTS[name].happen(world, asked)
        except QueueFullError:
            assert world.is_open
        except UnavailableError:
            assert not world.is_open


def close_gates(world: World, choice: int) -> None:
    """From now on, loading the engine, saving or snapshots take their time."""
    if world.gates.opened is not None:
        world.gates.opened.discard(("load", "unload", "save", "snapshot")[choice % 4])


def open_gates(world: World, choice: int) -> None:
    del choice
    if world.gates.opened is not None:
        world.gates.opened |= {"load", "unload", "save", "snapshot"}
    for place in world.gates.places(None, "load", "unload", "save", "snapshot"):
        world.gates.let_go(place)
    world.loop.settle()


def watch(world: World, choice: int) -> None:
    if world.asked:
        asked = world.asked[choice % len(world.asked)]
        if world.job(asked) is not None:
            world.watch(asked)


def look_up(world: World, choice: int) -> None:
    choice, caller = divmod(choice, len(CALLERS))
    world.look_up(choice % 8, CALLERS[caller])


def pass_time(world: World, choice: int) -> None:
    world.loop.pass_time((GRACE_S, ABANDONED_S + 61, IDLE_S)[choice % 3] + 1)


def hang(world: World, choice: int) -> None:
    """Whatever runs exceeds its time limit; on the device, that ends the server."""
    is_on_device = bool(world.gates.places(None, *invariants.DEVICE_STEPS))
    if choice % 4 == 0 or not is_on_device:
        world.loop.pass_time(TIMEOUT_S + 11)
        assert not is_on_device or world.manager.availability.fatal_error is not None


def shut_down(world: World, choice: int) -> None:
    if choice % 2:
        world.shut_down()


def start_again(world: World, choice: int) -> None:
    """A process that ends is followed by another one, if not at once."""
    if not world.is_open and choice % 3 == 0:
        (world.kill if choice % 2 else world.reopen)()


#: Moves, each as often as it is to be made.
MOVES: dict[str, tuple[int, Callable[[World, int], None]]] = {
    "go on": (50, go_on),
    "submit": (10, submit),
    "fail": (2, partial(go_on, outcome=lambda: EngineError("no"))),
    "run out of memory": (1, partial(go_on, outcome=MemoryError)),
    "raise": (1, partial(go_on, outcome=lambda: ValueError("no"))),
    "break": (1, partial(go_on, outcome=lambda: EngineBrokenError("broken"))),
    "reach both branches": (2, reach_both_branches),
    "wait for model": (1, wait_for_model),
    "load models": (1, load_models),
    "close gates": (1, close_gates),
    "open gates": (1, open_gates),
    "watch": (1, watch),
    "look up": (2, look_up),
    "pass time": (2, pass_time),
    "hang": (1, hang),
    "shut down": (1, shut_down),
    **{
        f"decoder {name}": (1, partial(end_decoder, outcome=end))
        for name, end in DECODER_ENDS.items()
    },
    **{
        name: (1, partial(happen, name=name))
        for name, fault in FAULTS.items()
        if not fault.opens_gates
    },
}


@hypothesis_settings(max_examples=EXAMPLES, deadline=None)
@given(
    first=st.sampled_from([*STATES, *EMPTY]),
    recycle_after=st.sampled_from([None, 2]),
    moves=st.lists(
        st.tuples(
            st.sampled_from([name for name, (often, _) in MOVES.items() for _ in range(often)]),
            st.integers(0, CHOICES - 1),
        ),
        min_size=30,
        max_size=60,
    ),
)
def test_in_every_order_each_job_ends_once_and_everybody_is_answered(
    first: str, recycle_after: int | None, moves: list[tuple[str, int]]
) -> None:
    world = World(**(WORLDS | EMPTY).get(first, {}), recycle_after=recycle_after)
    try:
        if first in STATES:
            STATES[first](world)
        for name, choice in moves:
            MOVES[name][1](world, choice)
            invariants.check(world)
            start_again(world, choice)
        world.load_models()
        world.end()
    except BaseException:
        world.abandon()
        raise
    finally:
        late, Complaints.late[:] = Complaints.late[:], []
    assert not late
