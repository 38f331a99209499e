"""A server process in a memory cage, and what it holds: memory, children, descriptors, files.

The cage is a memory cgroup below this process's own one if such a one can be made (version 1 or
2, which takes root), otherwise `RLIMIT_AS`. `/dev/shm` is the server's own, in a mount namespace,
where that is possible; otherwise everybody's, and only what appears in it counts.

Linux only. Does not know: what is sent to the server.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

HOST: Final = "127.0.0.1"
_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_SHM: Final = 'mount -t tmpfs -o size=1g tmpfs /dev/shm && exec "$@"'
_SHM: Final = Path("/dev/shm")  # noqa: S108 - where the system puts shared memory
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a server holds at one moment.

    Attributes:
        rss_bytes: resident memory of the server's own process.
        children: number of its descendants; zombies too.
        descriptors: number of its open files.
        shm: names in `/dev/shm`.
        files: names in its folder of temporary files.
        threads: number of its threads.
    """

    rss_bytes: int
    children: int
    descriptors: int
    shm: frozenset[str]
    files: frozenset[str]
    threads: int


class _Cgroup:
    """A memory cgroup of its own. Raises `OSError` if it cannot be made."""

    def __init__(self, limit_bytes: int) -> None:
        own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        first = next((path for _, kinds, path in own if kinds == "memory"), None)
        base = _CGROUPS / "memory" if first is not None else _CGROUPS
        where = (
            first if first is not None else next(path for number, _, path in own if number == "0")
        )
        self.folder = base / where.lstrip("/") / f"hostile-{os.getpid()}-{time.monotonic_ns()}"
        self.folder.mkdir()
        self._version = 1 if first is not None else 2
        name = "memory.limit_in_bytes" if self._version == 1 else "memory.max"
        try:
            (self.folder / name).write_text(str(limit_bytes))
        except OSError:
            self.folder.rmdir()
            raise

    def enter(self) -> None:
        """Put this process into the cgroup."""
        (self.folder / "cgroup.procs").write_text("0")

    def peak_bytes(self) -> int:
        name = "memory.max_usage_in_bytes" if self._version == 1 else "memory.peak"
        with contextlib.suppress(OSError, ValueError):
            return int((self.folder / name).read_text())
        return 0

    def kills(self) -> int:
        """Return how many processes the kernel killed for memory."""
        name = "memory.oom_control" if self._version == 1 else "memory.events"
        with contextlib.suppress(OSError):
            for line in (self.folder / name).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0

    def remove(self) -> None:
        for _ in range(50):
            with contextlib.suppress(OSError):
                self.folder.rmdir()
                return
            threading.Event().wait(0.1)


class CagedServer:
    """A server process on a free port, with the preview engine.

    Args:
        checkout: folder with the server's sources.
        sections: its configuration; any `worker.result_dir` stands for a new folder.
        memory_bytes: limit of the cgroup.
        address_space_bytes: limit of each process where there is no cgroup. Compiled loops and
            the stacks of threads take address space that they do not use.

    Attributes:
        cage: what holds the memory: `cgroup` or `RLIMIT_AS`, with the limit.
    """

    def __init__(
        self,
        checkout: Path,
        sections: dict[str, Any],
        *,
        memory_bytes: int = 2**31,
        address_space_bytes: int = 3 * 2**30,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hostile-"))
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()
        self.log = self.folder / "log"
        if sections.get("worker", {}).get("result_dir"):
            worker = {**sections["worker"], "result_dir": str(self.folder / "results")}
            sections = {**sections, "worker": worker}
        config = self.folder / "config.json"
        config.write_text(json.dumps(sections), encoding="utf-8")
        self._cgroup: _Cgroup | None = None
        with contextlib.suppress(OSError, StopIteration):
            self._cgroup = _Cgroup(memory_bytes)
        self.cage = (
            f"cgroup of {memory_bytes >> 20} MB"
            if self._cgroup
            else f"RLIMIT_AS of {address_space_bytes >> 20} MB"
        )
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port: int = probe.getsockname()[1]
        command = [sys.executable, "api_server_trellis2.py", "--config", str(config)]
        command += ["--host", HOST, "--port", str(self.port)]
        self._has_own_shm = _can_mount()
        if self._has_own_shm:
            command = ["unshare", "--mount", "--", "sh", "-c", _OWN_SHM, "sh", *command]
        self._shm_before = _names(_SHM)

        def enter() -> None:
            if self._cgroup:
                self._cgroup.enter()
            else:
                resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))

        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=checkout,
                env={**os.environ, "TMPDIR": str(self.temporary), "PYTHONPATH": str(checkout)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=enter,  # noqa: PLW1509 - no thread of this process holds a lock here
            )
        self.pid = self.process.pid

    # ---- what it holds ---------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def reset_peak(self) -> None:
        """Let `peak_rss_bytes` begin again at the present size."""
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_rss_bytes(self) -> int:
        """Return the server's largest resident memory since the reset; 0 once it has ended."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    return 1024 * int(line.split()[1])
        return 0

    def address_space_bytes(self) -> int:
        return _PAGE * int(Path(f"/proc/{self.pid}/statm").read_text().split()[0])

    def holdings(self) -> Holdings:
        """Return what the server holds now. Raises `OSError` once it has ended."""
        process = Path(f"/proc/{self.pid}")
        shm = process / "root/dev/shm" if self._has_own_shm else _SHM
        names = _names(shm)
        return Holdings(
            rss_bytes=_PAGE * int((process / "statm").read_text().split()[1]),
            children=len(descendants(self.pid)),
            descriptors=len(_names(process / "fd")),
            shm=names if self._has_own_shm else names - self._shm_before,
            files=_names(self.temporary),
            threads=len(_names(process / "task")),
        )

    def cage_figures(self) -> dict[str, int]:
        """Return the memory of all of its processes at most, and how many were killed for it."""
        if self._cgroup is None:
            return {}
        return {"cage_peak_bytes": self._cgroup.peak_bytes(), "cage_kills": self._cgroup.kills()}

    def log_tail(self, lines: int = 4) -> str:
        text = self.log.read_text("utf-8", "replace").splitlines()
        return "\n".join(line[:300] for line in text[-lines:])

    # ---- life ------------------------------------------------------------------------------

    def get(self, path: str, timeout_s: float = 10) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout_s)
        with contextlib.closing(connection):
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read()

    def wait_until_ready(self, limit_s: float = 600) -> float:
        """Return after how many seconds it served models."""
        begin, pause = time.monotonic(), threading.Event()
        while time.monotonic() - begin < limit_s:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get("/healthcheck")[0] == 200:
                    return time.monotonic() - begin
            if not self.is_alive:
                break
            pause.wait(0.05)
        raise SystemExit(f"the server did not start: {self.log_tail(10)}")

    def stop(self) -> list[str]:
        """End the server; return what it leaves behind: processes, files."""
        family = descendants(self.pid)
        if self.is_alive:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(25)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        end = time.monotonic() + 5
        while (left := [pid for pid in family if _is_alive(pid)]) and time.monotonic() < end:
            threading.Event().wait(0.1)
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        found = [f"{len(left)} processes"] if left else []
        names = sorted(_names(self.temporary))
        found += [f"temporary files: {', '.join(names)[:200]}"] if names else []
        if self._cgroup:
            self._cgroup.remove()
        shutil.rmtree(self.folder, ignore_errors=True)
        return found


def with_difference(before: Holdings, after: Holdings) -> dict[str, Any]:
    """Return what has changed between two moments, for the report."""
    fields = dataclasses.fields(Holdings)
    return {
        field.name: sorted(new - old) if isinstance(new, frozenset) else new - old
        for field in fields
        if (new := getattr(after, field.name)) != (old := getattr(before, field.name))
    }


def descendants(pid: int) -> list[int]:
    """Return the process ids of a process's children, their children and so on."""
    parents: dict[int, list[int]] = {}
    for name in _names(Path("/proc")):
        if name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                stat = Path(f"/proc/{name}/stat").read_text()
                parents.setdefault(int(stat.rsplit(")", 1)[1].split()[1]), []).append(int(name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def command_line(pid: int) -> str:
    """Return a process's command line; empty if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir())


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def _can_mount() -> bool:
    """Return whether a process can have a `/dev/shm` of its own."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "--", "sh", "-c", _OWN_SHM, "sh", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
