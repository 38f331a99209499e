"""Every state of a job against everything that can happen to it: each job ends once.

Everybody who waits is answered, nothing is left, and a restart knows what clients were told.
"""

from __future__ import annotations

import pytest

from tests.support.job_model import invariants
from tests.support.job_model.faults import FAULTS
from tests.support.job_model.leftovers import Complaints
from tests.support.job_model.states import STATES, WORLDS, state_of
from tests.support.job_model.world import World

#: Which faults have met which states, as they were found.
met: set[tuple[str, str]] = set()


@pytest.mark.parametrize("state", STATES)
def test_whatever_happens_to_a_job_it_ends_once_and_everybody_is_answered(state: str) -> None:
    for name, fault in FAULTS.items():
        if fault.applies(state):
            world = World(**WORLDS.get(state, {}))
            asked = STATES[state](world)
            met.add((state_of(world, asked), name))
            invariants.check(world)
            fault.happen(world, asked)
            invariants.check(world)
            world.run_out()
            end, job = fault.end(state), world.job(asked)
            found = "removed" if job is None else job.status.value
            assert end in {None, found}, f"{name}: {found}, {job and job.error}"
            world.end()
    assert not Complaints.late


def test_each_fault_has_met_each_state_in_which_it_can_happen(
    request: pytest.FixtureRequest,
) -> None:
    tests = [item.name for item in request.session.items if item.path == request.path]
    if len(tests) <= len(STATES):
        pytest.skip("only some of the states were selected")
    wanted = {(state, name) for state in STATES for name in FAULTS if FAULTS[name].applies(state)}
    assert met == wanted
    assert len(wanted) > len(STATES) * 35  # most faults can happen at any time
