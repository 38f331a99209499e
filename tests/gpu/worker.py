"""The process that runs parts; `supervisor` starts it and reads its messages.

Messages are lines of JSON on the standard output that this process was started with; whatever
else is printed goes to the standard error.

Does not know: the budget, files.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT)]
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tests.gpu.session import Session, describe  # noqa: E402 - after the path is set

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType

#: The stacks of all threads are printed so long after a part should have ended, seconds.
_STACKS_AFTER_S: Final = 3.0


class CutOffError(BaseException):
    """A part took longer than its limit. No `Exception`: rows take those as their errors."""


@contextlib.contextmanager
def limited(seconds: float) -> Generator[None, None, None]:
    """Raise `CutOffError` in the block after some time, between two instructions of Python.

    A call into a library that does not return is not ended by this: its stack is printed, and
    the supervisor ends the process.
    """

    def interrupt(_: int, __: FrameType | None) -> None:
        raise CutOffError

    faulthandler.dump_traceback_later(seconds + _STACKS_AFTER_S)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


def run_part(session: Session, command: dict[str, Any], emit: Callable[..., None]) -> bool:
    """Run a part and say how it ended; return whether this process can run another."""
    limit_s = command["limit_s"]
    state, why = "done", ""
    try:
        with limited(limit_s):
            session.begin(time.monotonic() + limit_s, command["slowness"])
            importlib.import_module(command["module"]).run(session)
    except CutOffError:
        state, why = "cut off", f"did not end within {limit_s:.0f} s"
        traceback.print_exc()
    except BaseException as error:  # noqa: BLE001 - sys.exit() in a library included
        state, why = "failed", describe(error)
        traceback.print_exc()
    is_usable = session.clean_up()
    emit("ended", state=state, why=why, is_unusable=not is_usable)
    return is_usable


def main() -> None:
    """Run the parts that arrive on the standard input, until it ends."""
    options = json.loads(sys.argv[1])
    # What libraries print must not get between the messages.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: str, **more: Any) -> None:
        print(json.dumps({"event": event, **more}), file=channel, flush=True)

    commands: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            commands.put(json.loads(line))
        os._exit(0)  # the supervisor is gone, or needs this process no longer

    threading.Thread(target=read, name="commands", daemon=True).start()
    session = Session(options, emit)
    while run_part(session, commands.get(), emit):
        pass


if __name__ == "__main__":
    main()
