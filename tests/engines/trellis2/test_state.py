from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.support.trellis2_engine import options, picture, silent
from trellis2_server.engines.trellis2.state import Trellis2State

if TYPE_CHECKING:
    from trellis2_server.engines.trellis2 import Trellis2Engine


def test_the_state_is_small_and_on_the_cpu(loaded: Trellis2Engine) -> None:
    shape = loaded.shape(picture(), options("1024_cascade"), silent)
    state = shape.state
    assert isinstance(state, Trellis2State)
    arrays = [state.features, state.coords, state.condition, state.generator, *state.subdivisions]
    assert all(type(array) is np.ndarray and array.flags.owndata for array in arrays[:4])
    assert state.nbytes == sum(array.nbytes for array in arrays)
    levels = [len(bits) for bits in state.subdivisions]
    assert len(levels) == 4
    assert state.nbytes < 1000 * len(state.features) + sum(levels) + state.condition.nbytes
