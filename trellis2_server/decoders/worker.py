"""The program of a decoder process: do one task after the other, confined.

    python -m trellis2_server.decoders.worker MODULE:TABLE LIMITS memory SOCKET LIFELINE
    python -m trellis2_server.decoders.worker MODULE:TABLE LIMITS inline

LIMITS are the fields of `DecoderLimits` as a JSON list. The program imports what its tasks need,
confines itself, says that it is ready, and only then reads anything of a client. It ends with the
server, see `worker_channels`.

Does not know: who asks, what a task does.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server import errors
from trellis2_server.decoders.confinement import confine, limit_cpu
from trellis2_server.decoders.limits import DecoderLimits
from trellis2_server.decoders.messages import (
    MAX_ARRAYS,
    TASK_ERRORS,
    encode_message,
    specify_arrays,
)
from trellis2_server.decoders.process_memory import resident_bytes
from trellis2_server.decoders.worker_channels import InlineChannel, MemoryChannel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.decoders.messages import Task
    from trellis2_server.decoders.worker_channels import Arrays, Channel

#: Calls after which a process is replaced, so that leaks of libraries do not add up.
MAX_CALLS: Final = 1000
#: Growth of its memory after which a process is replaced, bytes.
MAX_GROWTH_BYTES: Final = 2**28
_MAX_TEXT: Final = 4000
#: Time after which a process ends by itself that the server should have killed, seconds.
_GRACE_S: Final = 5.0


class Worker:
    """Does tasks.

    Args:
        tasks: the table of tasks.
        channel: the connection to the server.
        limits: of this process.
        has_lifeline: whether it ends with the server in the middle of a task; otherwise a clock
            ends it.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        channel: Channel,
        limits: DecoderLimits,
        *,
        has_lifeline: bool,
    ) -> None:
        self._has_lifeline = has_lifeline
        self._tasks = tasks
        self._channel = channel
        self._limits = limits
        self._calls = 0
        self._resident = resident_bytes(os.getpid()) or 0

    def run(self) -> None:
        """Do tasks until the server closes the connection, or this process is spent."""
        idle_s: float | None = None
        is_spent = False
        while not is_spent and self._channel.wait(idle_s):
            try:
                request, content = self._channel.receive_request()
            except MemoryError:
                text = "the file is larger than the memory that decoding it may take"
                error = {"class": "TooLargeError", "text": text}
                self._channel.send(encode_message({"error": error, "is_last": True}))
                return
            idle_s = request["idle_s"]
            limit_cpu(request["timeout_s"] * self._limits.threads)
            if not self._has_lifeline:  # needs no interpreter, which a library may hold
                faulthandler.dump_traceback_later(request["timeout_s"] + _GRACE_S, exit=True)
            is_spent = self._serve(request, content)
            faulthandler.cancel_dump_traceback_later()
            del content

    def _serve(self, request: Mapping[str, Any], content: memoryview) -> bool:
        """Answer a request; return whether this process is spent."""
        started = time.process_time()
        try:
            meta, arrays = self._tasks[request["task"]](content, request["arguments"])
            arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            self._check_size(arrays, request["field"])
            message = {
                "meta": meta,
                "arrays": specify_arrays(arrays),
                "cpu_s": time.process_time() - started,
                "is_last": self._is_spent(),
            }
            encoded = self._encode(message, request["field"])
            self._channel.send_result(encoded, arrays)
        except EOFError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a library raises on a file
            has_no_memory = _is_memory_error(error)
            message = {"error": _describe(error, request["field"]), "is_last": has_no_memory}
            del error
            gc.collect()
            self._channel.send(encode_message(message))
            return has_no_memory
        return bool(message["is_last"])

    def _check_size(self, arrays: Arrays, field: str) -> None:
        size = sum(array.nbytes for array in arrays.values())
        if size > self._limits.result_bytes or len(arrays) > MAX_ARRAYS:
            raise errors.TooLargeError(f"{field}: its content is too large")

    def _is_spent(self) -> bool:
        if self._limits.is_kept:
            return False
        self._calls += 1
        if self._calls >= MAX_CALLS:
            return True
        resident = resident_bytes(os.getpid())
        return resident is not None and resident > self._resident + MAX_GROWTH_BYTES

    @staticmethod
    def _encode(message: Mapping[str, Any], field: str) -> bytes:
        try:
            return encode_message(message)
        except ValueError as error:
            raise errors.TooLargeError(
                f"{field}: its names and other texts are too long, or hold values that are "
                "no numbers"
            ) from error


def _is_memory_error(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__
    return False


def _describe(error: BaseException, field: str) -> dict[str, str]:
    """Return an error as JSON."""
    for name, kind in TASK_ERRORS.items():
        if isinstance(error, kind):
            text = str(error)[:_MAX_TEXT].encode("utf-8", "replace").decode()
            return {"class": name, "text": text}
    if _is_memory_error(error):
        text = f"{field}: decoding it takes more memory than is allowed"
        return {"class": "TooLargeError", "text": text}
    if isinstance(error, ImportError):
        return {"class": "MissingPackageError", "text": f"a package is missing: {error.name}"}
    trace = "".join(traceback.format_exception(error))[-_MAX_TEXT:]
    text = f"{field}: the file cannot be read ({type(error).__name__})"
    return {"class": "InputError", "text": text, "trace": trace}


def ends_with_server(kind: str) -> bool:
    """Return whether this process ends with the server, even in the middle of a task.

    Elsewhere than on Linux, the signal of the second connection ends no process by itself.

    Args:
        kind: of the connection.
    """
    return kind == "memory" and sys.platform == "linux"


def main(arguments: list[str]) -> int:
    """Run the program."""
    table, limits_json, kind, *descriptors = arguments
    limits = DecoderLimits(*json.loads(limits_json))
    has_lifeline = ends_with_server(kind)
    channel = MemoryChannel(*map(int, descriptors)) if kind == "memory" else InlineChannel()
    try:
        module_name, _, name = table.partition(":")
        module = importlib.import_module(module_name)
        tasks: Mapping[str, Task] = getattr(module, name)
        getattr(module, "prepare", lambda: None)()
        held = confine(limits, has_lifeline=has_lifeline)
        channel.send(encode_message({"confinement": held}))
        Worker(tasks, channel, limits, has_lifeline=has_lifeline).run()
    except EOFError:  # the server has closed the connection
        return 0
    except Exception:  # noqa: BLE001 - has no other way out
        channel.send(encode_message({"fault": traceback.format_exc()[-_MAX_TEXT:]}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
