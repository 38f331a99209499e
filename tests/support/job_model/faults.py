"""What can happen to a job, in which of its states, and what must become of it.

Does not know: how a state is reached, how something happens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.job_model import happenings
from tests.support.job_model.executor import DECODER_ENDS
from tests.support.job_model.happenings import let_go
from trellis2_server.errors import EngineBrokenError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.job_model.clients import Asked
    from tests.support.job_model.world import World

#: The parts of states that finished jobs are in.
_FINISHED = ("completed", "error", "cancelled")


def is_finished(state: str) -> bool:
    return state.startswith(_FINISHED)


def is_running(state: str) -> bool:
    return " runs" in state


def is_decoding(state: str) -> bool:
    return state in {"cutout runs", "mesh: shape_export runs"}


def always(state: str) -> bool:
    del state
    return True


def is_unfinished(state: str) -> bool:
    return not is_finished(state)


@dataclass(frozen=True)
class Fault:
    """Something that happens to a job.

    Attributes:
        happen: has it happen.
        applies: in which states it can happen.
        end: status that the job must end with, by its state; None: it depends on more.
        opens_gates: whether everything goes on from then on, or it takes that nothing else happens.
    """

    happen: Callable[[World, Asked], None]
    applies: Callable[[str], bool] = always
    end: Callable[[str], str | None] = lambda _: None
    opens_gates: bool = False


def goes_on(state: str) -> str | None:
    """The end of a job that is not affected."""
    if state in {"error", "cancelled"}:
        return state
    return "error" if "texture failed" in state else "completed"


def _first_step_fails(state: str) -> str | None:
    """Where two steps run, the first one in the order of their names is `shape_export`."""
    if state.startswith("completed,"):
        return "completed"  # an export or conversion failed
    beside = ("texture runs", "texture waits", "texture made")
    is_survived = state in {f"shape_export runs, {texture}" for texture in beside}
    return "completed" if is_survived else "error"


def _second_step_fails(state: str) -> str | None:
    return "error" if state == "shape_export runs, texture runs" else _first_step_fails(state)


def _breaks(state: str) -> str | None:
    return "completed" if state.startswith("completed,") else "error"


def _deleted_end(state: str) -> str | None:
    return "removed" if is_finished(state) else "cancelled"


def _one_of_two_end(state: str) -> str | None:
    """A failed job is not shared: the second client gets one of its own, and deletes the other.

    Nor is one whose picture is being made: the second client sends it.
    """
    is_alone = ("failed", "for a picture", "error", "cancelled")
    is_shared = not any(word in state for word in is_alone)
    return goes_on(state) if is_shared else None


def _over_the_grace_end(state: str) -> str | None:
    if is_finished(state):
        return goes_on(state.partition(",")[0])
    # Its untextured model is there: no texture is made any more.
    return None if "texture waits" in state else "cancelled"


def _restarted_end(state: str) -> str | None:
    if state == "completed without texture":
        return "completed"
    return state.partition(",")[0] if is_finished(state) else None


def _killed_end(state: str) -> str | None:
    return _restarted_end(state) if is_finished(state) else "error"


#: Fault → what it is.
FAULTS: dict[str, Fault] = {
    "fails": Fault(let_go(lambda: EngineError("no"), 0), is_running, _first_step_fails),
    "its picture cannot be made": Fault(
        happenings.picture_fails, lambda state: "for a picture" in state, lambda _: "error"
    ),
    "fails in its second step": Fault(
        let_go(lambda: EngineError("no"), 1), is_running, _second_step_fails
    ),
    "is out of memory": Fault(let_go(MemoryError, 0), is_running, _first_step_fails),
    "raises": Fault(let_go(lambda: ValueError("no"), 0), is_running, _first_step_fails),
    "breaks the engine": Fault(let_go(lambda: EngineBrokenError("broken"), 0), is_running, _breaks),
    "its decoder dies": Fault(let_go(DECODER_ENDS["dies"], 0), is_decoding, goes_on),
    "its decoder dies twice": Fault(happenings.dies_twice, is_decoding, lambda _: "error"),
    "its decoder takes too long": Fault(
        happenings.decodes_too_long, is_decoding, lambda _: "error"
    ),
    "its decoder takes too much memory": Fault(
        let_go(DECODER_ENDS["takes too much memory"], 0), is_decoding, lambda _: "error"
    ),
    "its decoder gets no memory": Fault(
        let_go(DECODER_ENDS["gets no memory"], 0), is_decoding, lambda _: "error"
    ),
    "decoders are killed": Fault(happenings.is_killed, always, goes_on),
    "decoders cannot be started": Fault(
        happenings.cannot_be_started, always, lambda state: "error" if is_decoding(state) else None
    ),
    "decoders are started late": Fault(happenings.is_started_late, always, goes_on),
    "takes too long": Fault(happenings.takes_too_long),
    "hangs": Fault(happenings.hangs),
    "is abandoned": Fault(happenings.is_abandoned),
    "ages out": Fault(happenings.ages_out, end=lambda _: "removed", opens_gates=True),
    "is asked for before it ages out": Fault(
        happenings.is_asked_for_before_it_ages_out, opens_gates=True
    ),
    "one request leaves": Fault(happenings.one_request_leaves, always, goes_on),
    "requests leave": Fault(happenings.requests_leave, always, goes_on),
    "is deleted": Fault(happenings.is_deleted, always, _deleted_end),
    "is deleted by one of two": Fault(happenings.is_deleted_by_one_of_two, always, _one_of_two_end),
    "is deleted by a stranger": Fault(happenings.is_deleted_by_a_stranger, always, goes_on),
    "is requested again": Fault(happenings.is_requested_again, always, goes_on),
    "is merged": Fault(happenings.is_merged, always, goes_on),
    "its texture is requested": Fault(happenings.texture_is_requested, always, goes_on),
    "its shape is requested": Fault(happenings.shape_is_requested, always, goes_on),
    "the queue is full": Fault(happenings.queue_is_full, always, goes_on),
    "is looked up": Fault(happenings.is_looked_up, always, goes_on),
    "is exported again": Fault(happenings.is_exported_again, always, goes_on),
    "is exported again and deleted": Fault(
        happenings.is_exported_and_deleted, always, _deleted_end
    ),
    "is exported again, and requests leave": Fault(happenings.exporting_leaves, always, goes_on),
    "shuts down": Fault(happenings.shuts_down),
    "shuts down over the grace": Fault(
        happenings.shuts_down_over_the_grace, always, _over_the_grace_end
    ),
    "shuts down while the disk hangs": Fault(happenings.shuts_down_while_the_disk_hangs),
    "is closed and opened": Fault(happenings.is_closed_and_opened, always, _restarted_end),
    "is killed and opened": Fault(happenings.is_killed_and_opened, always, _killed_end),
    "is killed while the disk hangs": Fault(happenings.is_killed_while_the_disk_hangs),
    "another job breaks the engine": Fault(happenings.breaks_elsewhere),
    "another job breaks the engine, and it hangs": Fault(happenings.breaks_and_waits),
    "the engine is loaded again": Fault(happenings.engine_is_due, always, goes_on),
    "the engine cannot be loaded again": Fault(happenings.engine_cannot_be_loaded),
    "loses its key": Fault(happenings.loses_its_key, always, goes_on),
    "gets its key back": Fault(happenings.gets_its_key_back, always, goes_on),
    "the disk is full": Fault(happenings.disk_is_full, always, goes_on, opens_gates=True),
    "the disk hangs": Fault(happenings.disk_hangs, always, goes_on),
    "its files are lost": Fault(happenings.files_are_lost, is_finished),
    "makes room": Fault(happenings.makes_room, opens_gates=True),
}
