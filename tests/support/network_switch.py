"""An Ethernet switch in user space, whose ports can be cut, delayed and made to lose frames.

Each machine of `tests/support/network.py` has a TAP device, whose other end is a port of this
switch. Kernels without `netem` can thus be tested on, too. It runs as a process of its own:

    python network_switch.py PROCESS...     a process in the network namespace of each port

It reads commands from its standard input, one JSON object a line, and answers each with a line:
`{"port": 0, "is_cut": true, "delay_s": 0.05, "loss": 0.01, "hidden": [1]}`. It ends with its input.

Does not know: addresses, what the machines send.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import json
import os
import random
import selectors
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Name of the device in each machine.
DEVICE = "net0"
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_CLONE_NEWNET = 0x40000000
_MAX_FRAME = 65536
#: Frames that are read from one port before the next port has its turn.
_BURST = 64


def enter_network(namespace: int) -> None:
    """Put this thread into the network namespace that the file descriptor is of."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@dataclass(slots=True, eq=False)
class Port:
    """A port of the switch.

    Attributes:
        device: file descriptor of the TAP device.
        is_cut: whether no frame passes.
        delay_s: delay of frames from and to the port, seconds each.
        loss: share of the frames, from and to the port each, that are lost.
        hidden: numbers of the ports to which no frame from this port passes.
    """

    device: int
    is_cut: bool = False
    delay_s: float = 0.0
    loss: float = 0.0
    hidden: Sequence[int] = ()

    def loses(self, chance: random.Random) -> bool:
        """Return whether the next frame is lost."""
        return self.is_cut or (self.loss > 0 and chance.random() < self.loss)


class Switch:
    """Forwards frames between ports.

    Args:
        ports: the ports.
    """

    def __init__(self, ports: list[Port]) -> None:
        self._ports = ports
        self._learned: dict[bytes, Port] = {}
        self._chance = random.Random(1)  # noqa: S311 - frames to lose
        self._delayed: list[tuple[float, int, Port, bytes]] = []
        self._numbers = itertools.count()
        self._selector = selectors.DefaultSelector()
        for port in ports:
            self._selector.register(port.device, selectors.EVENT_READ, port)
        self._selector.register(sys.stdin.buffer, selectors.EVENT_READ)

    def run(self) -> None:
        """Forward frames until the standard input ends."""
        while True:
            timeout = max(0.0, self._delayed[0][0] - time.monotonic()) if self._delayed else None
            for key, _ in self._selector.select(timeout):
                if key.data is not None:
                    self._read(key.data)
                elif not self._obey():
                    return
            while self._delayed and self._delayed[0][0] <= time.monotonic():
                _, _, port, frame = heapq.heappop(self._delayed)
                self._write(port, frame)

    def _obey(self) -> bool:
        line = sys.stdin.buffer.readline()
        if not line:
            return False
        command = json.loads(line)
        port = self._ports[command.pop("port")]
        for name, value in command.items():
            setattr(port, name, value)
        sys.stdout.write("\n")
        sys.stdout.flush()
        return True

    def _read(self, source: Port) -> None:
        for _ in range(_BURST):
            try:
                frame = os.read(source.device, _MAX_FRAME)
            except BlockingIOError:
                return
            self._learned[frame[6:12]] = source
            known = self._learned.get(frame[:6])
            if source.loses(self._chance):
                continue
            for port in [known] if known else self._ports:
                if port is not source:
                    self._forward(source, port, frame)

    def _forward(self, source: Port, port: Port, frame: bytes) -> None:
        if port.loses(self._chance) or self._ports.index(port) in source.hidden:
            return
        delay_s = source.delay_s + port.delay_s
        if delay_s:
            due = time.monotonic() + delay_s
            heapq.heappush(self._delayed, (due, next(self._numbers), port, frame))
        else:
            self._write(port, frame)

    @staticmethod
    def _write(port: Port, frame: bytes) -> None:
        if not port.is_cut:
            # A device that is down refuses frames.
            with contextlib.suppress(OSError):
                os.write(port.device, frame)


def open_device(process: int) -> int:
    """Make the TAP device in the network namespace of a process; return its descriptor."""
    with Path(f"/proc/{process}/ns/net").open("rb") as namespace:
        enter_network(namespace.fileno())
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", DEVICE.encode("ascii"), _IFF_TAP | _IFF_NO_PI)
    fcntl.ioctl(device, _TUNSETIFF, request)
    return device


if __name__ == "__main__":
    switch = Switch([Port(open_device(int(process))) for process in sys.argv[1:]])
    sys.stdout.write("\n")
    sys.stdout.flush()
    switch.run()
