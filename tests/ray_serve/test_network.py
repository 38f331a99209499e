"""The machines that `tests/support/network.py` makes of one host."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import PATIENCE_S
from tests.support.network import Machine, Network, why_unavailable
from tests.support.server import until

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def network() -> Generator[Network]:
    reason = why_unavailable()
    if reason:
        pytest.skip(reason)
    with Network("a", "b", "c") as network:
        yield network


def hears(sender: Machine, receiver: Machine, timeout_s: float = 10.0) -> bool:
    """Return whether a datagram reaches another machine."""
    with receiver.inside():
        listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender.inside():
        sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with listening, sending:
        listening.bind((receiver.address, 0))
        listening.settimeout(timeout_s)
        sending.sendto(b"hello", listening.getsockname())
        try:
            return listening.recv(10) == b"hello"
        except TimeoutError:
            return False


def test_a_cut_machine_hears_nobody_until_it_is_mended(network: Network) -> None:
    a, b, c = network.machines.values()
    assert hears(a, b)
    network.cut("b")
    assert not hears(a, b, 0.2)
    assert not hears(b, a, 0.2)
    assert hears(a, c)
    network.mend("b")
    assert hears(a, b)


def test_two_machines_can_be_cut_off_from_each_other_only(network: Network) -> None:
    a, b, c = network.machines.values()
    network.cut_off("a", "b")
    assert not hears(a, b, 0.2)
    assert not hears(b, a, 0.2)
    assert hears(c, a)
    assert hears(c, b)
    network.mend("a", "b")
    assert hears(b, a)


def test_links_can_be_slow_and_lose_frames(network: Network) -> None:
    a, b, _ = network.machines.values()
    assert hears(a, b)  # knows the address
    network.set_link("b", delay_s=0.2)
    begin = time.monotonic()
    assert hears(a, b)
    assert time.monotonic() - begin >= 0.2
    network.set_link("b", delay_s=0.0, loss=0.5)
    heard = [hears(a, b, 0.05) for _ in range(20)]
    assert True in heard
    assert False in heard
    network.mend("b")


def test_machines_have_processes_of_their_own(network: Network) -> None:
    a, b, _ = network.machines.values()
    with subprocess.Popen(a.command(["sleep", "1000"])) as sleeping:
        until(lambda: "sleep 1000" in a.processes().values(), "it sleeps")
        assert "sleep 1000" not in b.processes().values()
        network.kill("a")
        assert sleeping.wait(PATIENCE_S)
    assert hears(b, a), "the machine itself stays"


def test_nothing_is_left_when_the_process_that_made_the_machines_is_killed(
    network: Network,
) -> None:
    del network  # they can be made here
    code = (
        "import subprocess\n"
        "from tests.support.network import Network\n"
        "machine = Network('a', 'b')['a']\n"
        "subprocess.Popen(machine.command(['sleep', '1001']))\n"
        "print(machine.process, flush=True)\n"
        "input()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as maker:
        assert maker.stdout is not None
        keeper = Path("/proc") / maker.stdout.readline().strip()
        assert keeper.exists()
        maker.kill()
    until(lambda: not keeper.exists(), "the machine has gone")
    listed = subprocess.run(["ps", "-eo", "args="], check=True, capture_output=True, text=True)
    assert "sleep 1001" not in listed.stdout.splitlines()
