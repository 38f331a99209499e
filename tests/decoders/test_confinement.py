"""What a decoder can reach of the machine."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.decoder_tasks import SERVER, TABLE
from tests.support.descriptors import open_files
from tests.support.server import until
from trellis2_server.decoders import DecoderLimits, DecoderPool
from trellis2_server.decoders.confinement import PROPERTIES

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

LIMITS = DecoderLimits(2**28, 30.0)
WORKS = {"start a thread", "import", "signal itself", "limit itself"}


@pytest.fixture
def pool() -> Generator[DecoderPool]:
    pool = DecoderPool(LIMITS, 1, tasks=TABLE)
    yield pool
    pool.close()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs the numbers of x86_64")
def test_a_decoder_can_compute_and_nothing_else(pool: DecoderPool, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    results = pool.call("try_everything", b"", {"folder": str(tmp_path)}).meta
    worked = {name for name, result in results.items() if result == "works"}
    if os.geteuid() == 0:  # a decoder of root can raise its own limits; the server watches it
        worked.discard("grow its memory limit")
    assert worked == WORKS
    assert len(results) > 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]
    assert (tmp_path / "secret").read_text() == "key"


def test_everything_holds_here(pool: DecoderPool) -> None:
    assert pool.confinement() == PROPERTIES


def test_a_decoder_inherits_no_secret_and_no_descriptor(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("TRELLIS2_API_KEYS", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(name, "sesame")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003
        found = pool.call("inspect", b"", {}).meta
    assert "sesame" not in str(found["environment"])
    kinds = sorted(target.partition(":")[0] for target in found["descriptors"].values())
    # Standard streams, the two connections, and at most the folder that lists them.
    assert set(kinds) <= {"/dev/null", "socket", "pipe"}
    assert len(kinds) == 5
    assert found["streams_are_null"]
    assert found["niceness"] == 5


def test_a_killed_server_leaves_no_decoder() -> None:
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    pids = [int(pid) for pid in server.stdout.readline().split()]
    assert len(pids) == 2  # one in an endless loop that holds the interpreter, one without work
    server.send_signal(signal.SIGKILL)
    server.wait()
    server.stdout.close()
    until(lambda: not any(is_running(pid) for pid in pids), "no decoder left")


def test_ctrl_c_in_the_terminal_of_the_server_leaves_decoders_at_work() -> None:
    # A terminal sends the signal to the whole group of its program, here to this one and those
    # that it starts.
    program = f"""
import os, signal
from trellis2_server.decoders import DecoderLimits, DecoderPool
signal.signal(signal.SIGINT, lambda *_: None)
pool = DecoderPool(DecoderLimits(2**30, 600), 1, tasks={TABLE!r})
pids = [pool.call("echo", b"", {{}}).meta["pid"]]
os.killpg(0, signal.SIGINT)
print(pids == [pool.call("echo", b"", {{}}).meta["pid"]])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True, start_new_session=True,
    )  # fmt: skip
    assert done.stdout == "True\n"


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.costly
def test_nothing_is_left_after_many_calls_and_kills(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def left() -> tuple[int, int]:
        return len(list(tmp_path.iterdir())), open_files()

    for transport in ("memory", "file", "inline"):
        before = left()
        pool = DecoderPool(LIMITS, 2, tasks=TABLE, transport=transport)
        for turn in range(50):
            pool.call("echo", bytes(100_000), {})
            if turn % 3 == 0:
                os.kill(pool.pids[0], signal.SIGKILL)
        pids = pool.pids
        pool.close()
        assert left() == before
        assert pool.counts["started"] == 18
        assert not any(is_running(pid) for pid in pids)
