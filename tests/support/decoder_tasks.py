"""Tasks for decoders in tests: they break every rule. No setting of a server leads to them."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.errors import (
    EngineError,
    InputError,
    MissingPackageError,
    TooLargeError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Result = tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]

TABLE = "tests.support.decoder_tasks:TASKS"
#: Starts decoders and never ends by itself; prints their process IDs.
SERVER = f"""
import threading
from trellis2_server.decoders import DecoderLimits, DecoderPool
pool = DecoderPool(DecoderLimits(2**30, 600), 2, tasks={TABLE!r})
threading.Thread(target=pool.call, args=("loop", b"", {{"holds": True}}), daemon=True).start()
while len(pool.pids) < 1: pass
pool.call("echo", b"", {{}})
print(*pool.pids, flush=True)
threading.Event().wait()
"""

kept: list[bytearray] = []


def echo(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Return everything, in arrays of all types."""
    data = np.frombuffer(content, np.uint8)
    kinds = ("bool", "uint8", "int32", "uint32", "int64", "float32", "float64")
    arrays = {kind: (np.arange(6) % 2).reshape(2, 3).astype(kind) for kind in kinds}
    empty = {"empty": np.empty((0, 3), np.float32)}
    return {"arguments": dict(arguments), "pid": os.getpid()}, {"data": data, **arrays, **empty}


def nothing(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Return no arrays."""
    del content, arguments
    return {}, {}


def loop(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Never end; with `holds` in C, without letting go of the interpreter."""
    del content
    if arguments["holds"]:
        sum(range(10**15))
    while True:
        pass


def wait(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Never end, and use no processor time."""
    del content, arguments
    threading.Event().wait()
    return {}, {}


def allocate(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Use that much memory, 16 MB at a time."""
    del content
    blocks = [bytearray(2**24) for _ in range(arguments["size"] >> 24)]
    return {"blocks": len(blocks)}, {}


def keep(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Leak that much memory."""
    del content
    kept.append(bytearray(arguments["size"]))
    return {"pid": os.getpid()}, {}


def return_much(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Return that many bytes."""
    del content
    return {}, {"zeros": np.zeros(arguments["size"], np.uint8)}


def say_much(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Return a text of that length."""
    del content
    return {"text": "x" * arguments["size"]}, {}


def end(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """End the process."""
    del content
    if "signal" in arguments:
        os.kill(os.getpid(), arguments["signal"])
    os._exit(arguments["code"])


def fail(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Raise an error."""
    del content
    kinds: list[type[Exception]] = [
        InputError, TooLargeError, MissingPackageError, EngineError, MemoryError, ValueError,
        RecursionError, ImportError,
    ]  # fmt: skip
    raise {kind.__name__: kind for kind in kinds}[arguments["class"]]("as asked")


def send_raw(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Send the server bytes that are no message, as a process that was taken over may."""
    del arguments
    connection = socket.socket(fileno=int(sys.argv[4]))
    connection.sendall(content)
    threading.Event().wait()
    return {}, {}


def inspect(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Return what this process has."""
    del content
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            descriptors[name] = os.readlink(f"/proc/self/fd/{name}")
    streams = [os.fstat(descriptor).st_rdev for descriptor in (0, 1, 2)]
    return {
        "environment": dict(os.environ),
        "descriptors": descriptors,
        "streams_are_null": all(rdev == os.stat(os.devnull).st_rdev for rdev in streams),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "arguments": dict(arguments),
    }, {}


def try_everything(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Return which forbidden things work, and how the others fail."""
    del content
    import fcntl
    import resource

    libc = ctypes.CDLL(None, use_errno=True)
    folder, parent = arguments["folder"], os.getppid()

    def call(number: int, *args: Any) -> None:
        if libc.syscall(number, *args) < 0:
            raise OSError(ctypes.get_errno(), "refused")

    def fork() -> None:
        if os.fork() == 0:
            os._exit(0)

    attempts: dict[str, Callable[[], object]] = {
        "connect": lambda: socket.create_connection(("127.0.0.1", 9), 1),
        "open a socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        "make a socket pair": socket.socketpair,
        "make a file": lambda: open(f"{folder}/made", "x"),
        "write a file": lambda: open(f"{folder}/secret", "a"),
        "make a temporary file": tempfile.TemporaryFile,
        "make memory": _write_memory,
        "delete a file": lambda: os.unlink(f"{folder}/secret"),
        "rename a file": lambda: os.rename(f"{folder}/secret", f"{folder}/moved"),
        "make a folder": lambda: os.mkdir(f"{folder}/made"),
        "change a mode": lambda: os.chmod(f"{folder}/secret", 0o777),
        "link": lambda: os.link(f"{folder}/secret", f"{folder}/link"),
        "read a file": lambda: open(f"{folder}/secret").read(),
        "list a folder": lambda: os.listdir(folder),
        "read the server's environment": lambda: open(f"/proc/{parent}/environ").read(),
        "read the server's memory": lambda: open(f"/proc/{parent}/mem", "rb").read(1),
        "fork": fork,
        "start a program": lambda: subprocess.run(["/bin/true"], check=True),
        "become a program": lambda: os.execv("/bin/true", ["true"]),
        "signal the server": lambda: os.kill(parent, 0),
        "signal a thread of the server": lambda: call(234, parent, parent, 0),
        "have a pipe signal the server": lambda: fcntl.fcntl(0, fcntl.F_SETOWN, parent),
        "have a pipe signal the server by ioctl": lambda: fcntl.ioctl(
            int(sys.argv[4]), 0x8901, struct.pack("i", parent)
        ),
        "choose the signal of a descriptor": lambda: fcntl.fcntl(0, 10, signal.SIGKILL),
        "limit the server": lambda: resource.prlimit(
            parent, resource.RLIMIT_CORE, resource.prlimit(0, resource.RLIMIT_CORE)
        ),
        "move the server to one processor": lambda: call(
            203, parent, 8, struct.pack("Q", 2**64 - 1)
        ),
        "slow the server's files": lambda: call(251, 1, parent, 0),
        "send a descriptor": lambda: socket.send_fds(
            socket.socket(fileno=os.dup(int(sys.argv[4]))), [b""], [0]
        ),
        "type into a terminal": lambda: fcntl.ioctl(0, 0x5412, b"x"),
        "trace the server": lambda: call(101, 16, parent, 0, 0),
        "change its niceness": lambda: os.setpriority(os.PRIO_PROCESS, 0, 0),
        "make namespaces": lambda: call(272, 0x10000000),
        "load a program into the kernel": lambda: call(321, 0, 0, 0),
        "start a ring": lambda: call(425, 1, 0),
        "take a key": lambda: call(250, 0, -3, 0, 0),
        "make shared memory": lambda: call(29, 0, 4096, 0o1600),
        "start a process by clone3": lambda: call(435, 0, 0),
        "open by openat2": lambda: call(437, -100, f"{folder}/made".encode(), 0, 0),
        "grow its memory limit": lambda: resource.setrlimit(9, (-1, -1)),
    }
    results: dict[str, str] = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            results[name] = "works"
        except OSError as error:  # noqa: PERF203 - each attempt counts
            results[name] = os.strerror(error.errno or 0)
        except ValueError as error:
            results[name] = str(error)
    works: dict[str, Callable[[], object]] = {
        "start a thread": lambda: _run_thread(),
        "import": lambda: __import__("wave"),
        "signal itself": lambda: os.kill(os.getpid(), signal.SIGWINCH),
        "limit itself": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    }
    for name, attempt in works.items():
        attempt()
        results[name] = "works"
    return results, {}


def _write_memory() -> None:
    descriptor = os.memfd_create("x")
    os.ftruncate(descriptor, 4096)
    with mmap.mmap(descriptor, 4096) as memory:
        memory[0] = 1


def _run_thread() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


TASKS = {
    task.__name__: task
    for task in (
        echo, nothing, loop, wait, allocate, keep, return_much, say_much, end, fail, send_raw,
        inspect, try_everything,
    )
}  # fmt: skip
