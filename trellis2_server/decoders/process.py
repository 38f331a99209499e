"""`DecoderProcess`: one decoder process, as the server sees it.

Does not know: what is decoded, how many processes there are.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from dataclasses import astuple
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from trellis2_server.child_processes import import_path
from trellis2_server.decoders.confinement import MEMORY
from trellis2_server.decoders.messages import TASK_ERRORS, ProtocolError
from trellis2_server.decoders.process_memory import resident_bytes
from trellis2_server.decoders.transport import (
    CAN_SEND_DESCRIPTORS,
    InlineLink,
    MemoryLink,
    Patience,
    TimeIsUpError,
)
from trellis2_server.errors import InputError
from trellis2_server.reports import no_check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from trellis2_server.decoders.limits import DecoderLimits
    from trellis2_server.decoders.transport import Link, Reply
    from trellis2_server.reports import Check

    Transport = Literal["memory", "file", "inline"]

logger = logging.getLogger(__name__)

#: The table of tasks of a usual decoder.
TASKS: Final = "trellis2_server.decoders.tasks:TASKS"
#: The fastest way that this system has.
DEFAULT_TRANSPORT: Final[Transport] = "memory" if CAN_SEND_DESCRIPTORS else "inline"

_PROGRAM: Final = "trellis2_server.decoders.worker"
#: Size of blocks, and half of all memory, that glibc keeps between two calls, bytes; those are
#: its own values for a process that has used blocks of this size.
_KEPT_BYTES: Final = 2**25
#: How long a process may take to import its packages, seconds.
_START_TIMEOUT_S: Final = 60.0
#: How long the end of a killed process is waited for, seconds.
_KILL_TIMEOUT_S: Final = 5.0
#: How long a call that nobody waits for any more may go on before its process is killed, seconds:
#: most pictures take less, and starting the next process takes more.
GRACE_S: Final = 0.25
#: The same for the start of a process, which serves the next call as well.
START_GRACE_S: Final = 5.0
#: Environment variables that a decoder gets, if they are set. None of them is a secret.
_VARIABLES: Final = frozenset({
    "PATH", "LANG", "LANGUAGE", "TZ", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "DYLD_FALLBACK_LIBRARY_PATH", "PYTHONHOME", "PYTHONUTF8", "XDG_CACHE_HOME", "XDG_DATA_HOME",
    "U2NET_HOME", "REMBG_HOME", "MODEL_CHECKSUM_DISABLED", "OMP_NUM_THREADS",
    "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "TEMP", "TMP", "USERPROFILE", "APPDATA", "LOCALAPPDATA",
    "PROGRAMDATA", "PATHEXT", "COMSPEC", "NUMBER_OF_PROCESSORS",
})  # fmt: skip
_THREAD_VARIABLES: Final = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

#: Why a decoder was killed or has ended.
Reason = Literal["timeout", "cancelled", "memory", "crash"]


class Decoded(NamedTuple):
    """Result of a task.

    Attributes:
        meta: JSON values.
        arrays: arrays of the types in `messages`.
    """

    meta: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


class DecoderEndedError(Exception):
    """The process has ended, or had to be killed; `str()` says how.

    Attributes:
        reason: why.
    """

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason: Reason = reason


class _MemoryIsUpError(Exception):
    """A process uses more memory than it may."""


class DecoderProcess:
    """A decoder process; it starts at once, and does one call at a time.

    Args:
        limits: of the process.
        tasks: table of its tasks, as "module:name".
        transport: "memory"; "file": memory files that are temporary files, as on systems without
            anonymous memory; "inline": pipes, as where no descriptors can be sent.

    Attributes:
        confinement: what holds for the process, once it is ready.
        is_spent: whether the process takes no more calls.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        limits: DecoderLimits,
        *,
        tasks: str = TASKS,
        transport: Transport = DEFAULT_TRANSPORT,
    ) -> None:
        self.confinement: tuple[str, ...] = ()
        self.is_spent = False
        self._limits = limits
        self._is_ready = False
        self._link: Link
        if transport == "inline":
            self._link = InlineLink()
        else:
            self._link = MemoryLink(is_named=transport == "file")
        try:
            process: Any = subprocess.Popen(  # noqa: S603 - our own interpreter and program
                [
                    sys.executable, "-B", "-m", _PROGRAM,
                    tasks, json.dumps(astuple(limits)), *self._link.arguments,
                ],
                stderr=subprocess.DEVNULL,
                env=environment(),
                # Ctrl-C in the server's terminal is for the server, which may finish its jobs.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                **self._link.options,
            )  # fmt: skip
        except BaseException:
            self._link.close()
            raise
        self._process: subprocess.Popen[bytes] = process
        self._link.connect(process)
        # Also when this object is collected, or the interpreter ends.
        self._end = weakref.finalize(self, _end, process, self._link)

    @property
    def pid(self) -> int:
        """Process ID."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def wait_until_ready(self, check: Check) -> None:
        """Wait until the process has confined itself.

        Args:
            check: called at least every 50 ms; what it raises is raised when the process is ready,
                or after `START_GRACE_S`, and then the process is killed.

        Raises:
            DecoderEndedError: it could not be started.
        """
        if self._is_ready:
            return
        grace = _Grace(check, START_GRACE_S)
        try:
            message = self._link.receive(Patience(_START_TIMEOUT_S, grace))
            fault = message.get("fault")
            if fault is not None:
                logger.error("A decoder could not start", extra={"trace": str(fault)})
            self.confinement = tuple(map(str, message["confinement"]))
        except (EOFError, ProtocolError, TimeIsUpError, KeyError, TypeError) as error:
            raise self._ended(error, "") from error
        except BaseException:
            self.kill()
            raise
        self._is_ready = True
        grace.raise_what_was_caught()

    def call(  # noqa: PLR0913 - what a task gets, and its limits
        self,
        task: str,
        content: bytes | memoryview,
        arguments: Mapping[str, object],
        *,
        field: str = "image",
        timeout_s: float | None = None,
        result_bytes: int | None = None,
        idle_s: float | None = None,
        check: Check = no_check,
    ) -> Decoded:
        """Do a task; block until it has ended.

        Args:
            task: its name.
            content: a client's file.
            arguments: JSON values.
            field: field of the request, for messages.
            timeout_s: time limit, seconds; None: that of the limits.
            result_bytes: maximum size of the arrays that the task returns, bytes; None: that of
                the limits.
            idle_s: how long the process may wait for the next call; None: for ever.
            check: called at least every 50 ms; what it raises is raised when the task has ended, or
                after `GRACE_S`, and then the process is killed.

        Raises:
            InputError: as raised by the task; so are `TooLargeError` and errors of the engine.
            DecoderEndedError: the process has ended, or was killed.
        """
        self.wait_until_ready(check)
        timeout_s = self._limits.timeout_s if timeout_s is None else timeout_s
        request = {
            "task": task,
            "arguments": dict(arguments),
            "field": field,
            "size": len(content),
            "timeout_s": timeout_s,
            "idle_s": idle_s,
        }
        grace = _Grace(check, GRACE_S)
        try:
            reply = self._link.exchange(
                request,
                content,
                self._limits.result_bytes if result_bytes is None else result_bytes,
                Patience(timeout_s, self._watched(grace)),
            )
            if reply.message.get("is_last"):
                self.is_spent = True
        except (EOFError, ProtocolError, TimeIsUpError, _MemoryIsUpError) as error:
            raise self._ended(error, f" than {timeout_s:g} seconds") from error
        except BaseException:
            self.kill()
            raise
        grace.raise_what_was_caught()
        return self._result(reply)

    def _watched(self, check: Check) -> Check:
        """Return the check; where the system does not limit the memory, with a look at it."""
        if MEMORY in self.confinement:
            return check

        def check_memory() -> None:
            check()
            resident = resident_bytes(self.pid)
            if resident is not None and resident > self._limits.memory_bytes:
                raise _MemoryIsUpError

        return check_memory

    def _result(self, reply: Reply) -> Decoded:
        message = reply.message
        match message:
            case {"error": {"class": str(name), "text": str(text), **more}} if name in TASK_ERRORS:
                if "trace" in more:
                    logger.error("A task of a decoder failed", extra={"trace": str(more["trace"])})
                raise TASK_ERRORS[name](text)
            case {"meta": dict(meta)}:
                return Decoded(meta, reply.arrays)
            case _:
                raise self._ended(ProtocolError("it sent no result"), "")

    def _ended(self, error: BaseException, than: str) -> DecoderEndedError:
        """Kill the process; return how it has ended."""
        if isinstance(error, TimeIsUpError):
            self.kill()
            return DecoderEndedError("timeout", f"took longer{than}")
        if isinstance(error, _MemoryIsUpError):
            self.kill()
            return DecoderEndedError("memory", "took too much memory")
        if isinstance(error, EOFError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_KILL_TIMEOUT_S)
            code = self._process.returncode
            self.kill()
            if code is not None and -code == getattr(signal, "SIGXCPU", 0):
                return DecoderEndedError("timeout", f"took longer{than}")
            return DecoderEndedError("crash", f"ended the process ({_describe_exit(code)})")
        self.kill()
        return DecoderEndedError("crash", "ended with an invalid answer")

    def stop(self) -> None:
        """End the process at once; from any thread. The call that it does fails."""
        self.is_spent = True
        self._process.kill()

    def kill(self) -> None:
        """End the process, and free all that belongs to it. Only while no other thread calls."""
        self.is_spent = True
        self._end()


class _Grace:
    """A check that raises what another one has raised, but only after some time.

    Args:
        check: the other one.
        seconds: the time.
    """

    def __init__(self, check: Check, seconds: float) -> None:
        self._check = check
        self._seconds = seconds
        self._caught: BaseException | None = None
        self._until_s = 0.0

    def __call__(self) -> None:
        """Raise if the time is up."""
        if self._caught is None:
            try:
                self._check()
            except BaseException as error:  # noqa: BLE001 - it is raised later
                self._caught = error
                self._until_s = time.monotonic() + self._seconds
        if self._caught is not None and time.monotonic() >= self._until_s:
            raise self._caught

    def raise_what_was_caught(self) -> None:
        """Raise what the check has raised: what it would have interrupted has ended."""
        if self._caught is not None:
            raise self._caught


def _end(process: subprocess.Popen[bytes], link: Link) -> None:
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_KILL_TIMEOUT_S)
    link.close()


def invalid_result(field: str) -> InputError:
    """Return the error for a result that its task cannot have made."""
    return InputError(f"{field}: decoding it gave an invalid result")


def environment() -> dict[str, str]:
    """Return the environment variables of a decoder: it imports the same packages."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.upper() in _VARIABLES or name.startswith("LC_")
    }
    # Each thread and each arena reserves address space, which is limited.
    variables |= dict.fromkeys(_THREAD_VARIABLES, "1")
    variables.setdefault("OMP_NUM_THREADS", "1")
    variables |= {
        "MALLOC_ARENA_MAX": "2",
        # Keep so much memory for the next picture: taking it from the system again costs more
        # than decoding does.
        "MALLOC_MMAP_THRESHOLD_": str(_KEPT_BYTES),
        "MALLOC_TRIM_THRESHOLD_": str(2 * _KEPT_BYTES),
    }
    return variables | import_path()


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "it does not end"
    if code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"
