"""Machines on one host, each with network, processes, /tmp and shared memory of its own.

A machine is a set of Linux namespaces, kept by a process that reads from a pipe. When the test's
process ends, however it ends, the pipe is closed, that process ends, and the kernel ends all
processes of the machine and removes its network: nothing stays behind.

Files are those of the host except for what a test mounts, so that a Unix socket reaches the test
while all links are cut.

Needs Linux, root, `ip` of iproute2, `unshare` and `nsenter` of util-linux, and /dev/net/tun.

Does not know: Ray, what runs on the machines.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from tests.support.network_switch import DEVICE, enter_network

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from typing_extensions import Self

#: The machines' network: those of documentation are routed nowhere.
_SUBNET = "192.0.2"
#: Longest duration of a command that sets a machine up, seconds.
_COMMAND_S = 60.0


def why_unavailable() -> str | None:
    """Return why no machines can be made here; None: they can."""
    if sys.platform != "linux":
        return "needs Linux's namespaces"
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    packages = {"ip": "iproute2", "mount": "mount"}
    packages |= dict.fromkeys(("unshare", "nsenter"), "util-linux")
    for command, package in packages.items():
        if shutil.which(command) is None:
            return f"needs {package}, to make network namespaces"
    if not Path("/dev/net/tun").exists():
        return "needs root and /dev/net/tun, to connect network namespaces"
    probe = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--mount-proc", "true"]
    done = subprocess.run(probe, check=False, capture_output=True, text=True, timeout=_COMMAND_S)
    if done.returncode:
        return f"needs root that may make namespaces: {done.stderr.strip()}"
    return None


class Machine:
    """A machine of a `Network`.

    Args:
        name: its name.
        number: last part of its address.

    Attributes:
        name: its name.
        address: its IP address.
    """

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = f"{_SUBNET}.{number}"
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        # The shell is the machine's first process: it reaps those that lose their parent, and
        # stays when all others are killed, until the pipe is closed.
        script = f"hostname {name} && mount -t tmpfs shm /dev/shm && echo up; until cat; do :; done"
        options = ["--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
        self._keeper = subprocess.Popen(
            ["unshare", *options, "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == b"up\n", "the machine does not start"
        self._network = os.open(f"/proc/{self.process}/ns/net", os.O_RDONLY)

    @property
    def process(self) -> int:
        """Id of a process in the machine's namespaces."""
        return self._keeper.pid

    def connect(self) -> None:
        """Give the machine its address, on the device that the switch has made."""
        self.run(["ip", "link", "set", "lo", "up"])
        self.run(["ip", "address", "add", f"{self.address}/24", "dev", DEVICE])
        self.run(["ip", "link", "set", DEVICE, "up"])

    # ---- commands ------------------------------------------------------------------------

    def command(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs one on this machine."""
        files = {"net": "net", "pid": "pid_for_children", "mount": "mnt", "uts": "uts"}
        entered = [f"--{kind}=/proc/{self.process}/ns/{file}" for kind, file in files.items()]
        return ["nsenter", *entered, "--", *command]

    def run(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this machine to its end; raise with its output if it fails."""
        done = subprocess.run(
            self.command(command),
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, **(environment or {})},
            timeout=2 * _COMMAND_S,
        )
        assert done.returncode == 0, f"{self.name}: {command}\n{done.stdout}\n{done.stderr}"
        return done

    def processes(self) -> dict[int, str]:
        """Return the command of each process, by its id on this machine."""
        listed = self.run(["ps", "-eo", "pid=,args="]).stdout.splitlines()
        pairs = [line.split(None, 1) for line in listed]
        return {int(process): command for process, command in pairs}

    def kill_all(self) -> None:
        """Kill each process with SIGKILL, at once; the machine stays."""
        # From inside, -1 means all processes but the first and the one that asks.
        self.run(["sh", "-c", "kill -KILL -1"])

    def close(self) -> None:
        """Remove the machine with all its processes."""
        if self._keeper.returncode is not None:
            return
        os.close(self._network)
        os.close(self._own)
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self._keeper.wait(_COMMAND_S)
        self._keeper.stdout.close()

    # ---- clients -------------------------------------------------------------------------

    @contextmanager
    def inside(self) -> Generator[None]:
        """Make sockets of this thread belong to the machine."""
        enter_network(self._network)
        try:
            yield
        finally:
            enter_network(self._own)

    def client(self, server: str, timeout_s: float) -> httpx.Client:
        """Return a client on this machine of a server.

        Args:
            server: URL.
            timeout_s: of each read, seconds.
        """
        return httpx.Client(base_url=server, timeout=timeout_s, transport=_Transport(self))


class _Backend(httpcore.SyncBackend):
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def connect_tcp(self, *args: Any, **named: Any) -> httpcore.NetworkStream:
        with self._machine.inside():
            return super().connect_tcp(*args, **named)


class _Transport(httpx.HTTPTransport):
    """Connects from a machine."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._pool.close()
        # A connection that was open during a cut may be closed when it is used next.
        self._pool = httpcore.ConnectionPool(
            max_keepalive_connections=0, network_backend=_Backend(machine)
        )


class Network:
    """Machines that reach each other.

    Args:
        names: of the machines.

    Attributes:
        machines: by name.
    """

    def __init__(self, *names: str) -> None:
        self.machines: dict[str, Machine] = {}
        self._switch: subprocess.Popen[str] | None = None
        try:
            for number, name in enumerate(names, 1):
                self.machines[name] = Machine(name, number)
            self._switch = self._start_switch()
            for machine in self.machines.values():
                machine.connect()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_switch(self) -> subprocess.Popen[str]:
        script = Path(__file__).with_name("network_switch.py")
        ports = [str(machine.process) for machine in self.machines.values()]
        switch = subprocess.Popen(
            [sys.executable, str(script), *ports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._await_answer(switch)
        return switch

    @staticmethod
    def _await_answer(switch: subprocess.Popen[str]) -> None:
        assert switch.stdout is not None
        assert switch.stdout.readline() == "\n", "the switch has ended"

    def set_link(self, name: str, **link: object) -> None:
        """Change the link of a machine; returns when it is changed.

        Args:
            name: the machine.
            link: `is_cut`, `delay_s`, `loss` and `hidden`, see `network_switch.Port`.
        """
        assert self._switch is not None
        assert self._switch.stdin is not None
        command = {"port": list(self.machines).index(name), **link}
        self._switch.stdin.write(json.dumps(command) + "\n")
        self._switch.stdin.flush()
        self._await_answer(self._switch)

    def cut(self, *names: str) -> None:
        """Cut the links of machines: no frame passes, and nobody is told."""
        for name in names:
            self.set_link(name, is_cut=True)

    def mend(self, *names: str) -> None:
        """Make the links of machines as they were at first."""
        for name in names:
            self.set_link(name, is_cut=False, delay_s=0.0, loss=0.0, hidden=())

    def cut_off(self, name: str, *others: str) -> None:
        """Cut a machine off from some others, and from nobody else."""
        numbers = {each: number for number, each in enumerate(self.machines)}
        self.set_link(name, hidden=[numbers[other] for other in others])
        for other in others:
            self.set_link(other, hidden=[numbers[name]])

    def kill(self, name: str) -> None:
        """Kill all processes of a machine, whose kernel closes their connections."""
        self.machines[name].kill_all()

    def power_off(self, name: str) -> None:
        """End a machine as if it had lost its power: its processes end, and nobody is told."""
        self.cut(name)
        self.machines[name].kill_all()

    def close(self) -> None:
        """Remove all machines."""
        for machine in self.machines.values():
            machine.close()
        if self._switch is not None:
            assert self._switch.stdin is not None
            assert self._switch.stdout is not None
            self._switch.stdin.close()
            self._switch.wait(_COMMAND_S)
            self._switch.stdout.close()
