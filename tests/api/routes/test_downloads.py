"""Large files and slow clients: what is in memory, and what a client gets."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.large_file_server import store_large_file
from tests.support.server import ON_RAY, fields, serving, settings, until
from trellis2_server.storage.content import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.support.server import Server

pytestmark = pytest.mark.skipif(ON_RAY, reason="needs the single process")
ROOT = Path(__file__).resolve().parents[3]
LARGE = 20_000_000


@pytest.fixture
def stored(tmp_path: Path) -> Generator[tuple[Server, str, bytes]]:
    """A server with a folder, the uid of a job, and the content of its large file."""
    with serving(GatedEngine(), settings(worker={"result_dir": str(tmp_path)})) as server:
        server.wait_until_loaded()
        uid = server.generate(fields(texture=True)).headers["X-Job-Id"]
        until(lambda: server.is_idle, "everything is stored")
        content = os.urandom(LARGE)
        store_large_file(server, uid, content)
        yield server, uid, content


def slow_client(address: tuple[str, int], path: str) -> socket.socket:
    """A client that has requested a file, and whose buffers hold little of it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    client.connect(address)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return client


def received(client: socket.socket) -> bytes:
    parts: list[bytes] = []
    while part := client.recv(1_000_000):
        parts.append(part)
    return b"".join(parts)


def resident_bytes(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text("ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


@pytest.mark.costly
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_slow_download_takes_a_few_chunks_of_memory(tmp_path: Path) -> None:
    clients = 100
    command = [sys.executable, "-m", "tests.support.large_file_server", str(tmp_path), str(LARGE)]
    with (
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
        contextlib.ExitStack() as stack,
    ):
        assert process.stdout is not None
        url = httpx.URL(process.stdout.readline().strip())
        address = (url.host, url.port or 0)
        for _ in range(2):  # what the first ones take is not theirs
            with httpx.stream("GET", url, timeout=PATIENCE_S) as reply:
                digest = hashlib.sha256()
                for chunk in reply.iter_bytes():
                    digest.update(chunk)
        before = resident_bytes(process.pid)
        slow = [stack.enter_context(slow_client(address, url.path)) for _ in range(clients)]
        for client in slow:
            assert select.select([client], [], [], PATIENCE_S)[0]
            assert client.recv(12) == b"HTTP/1.1 200"
        assert httpx.get(f"http://{url.host}:{url.port}/healthcheck", timeout=PATIENCE_S).is_success
        growth = resident_bytes(process.pid) - before
        # Two chunks in the process, one more for what the allocator holds, and the connection.
        assert growth < clients * (3 * CHUNK_BYTES + 65_536)
        whole = received(slow[-1])
        assert hashlib.sha256(whole.partition(b"\r\n\r\n")[2]).digest() == digest.digest()
        process.communicate(timeout=PATIENCE_S)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not delete an open file")
def test_a_file_is_sent_to_its_end_though_its_job_is_deleted_meanwhile(
    stored: tuple[Server, str, bytes], tmp_path: Path
) -> None:
    server, uid, content = stored
    with slow_client(server.address, f"/jobs/{uid}/textured.glb") as client:
        assert client.recv(12) == b"HTTP/1.1 200"
        assert server.client.delete(f"/jobs/{uid}").is_success
        until(lambda: server.is_idle and not list((tmp_path / "files").iterdir()), "deleted")
        assert server.client.get(f"/jobs/{uid}/textured.glb").status_code == 404
        assert received(client).partition(b"\r\n\r\n")[2] == content


def test_a_file_that_is_damaged_while_it_is_sent_is_cut_and_then_lost(
    stored: tuple[Server, str, bytes], tmp_path: Path
) -> None:
    server, uid, content = stored
    url = f"/jobs/{uid}/textured.glb"
    path = tmp_path / "files" / f"{uid}-textured.glb"
    with slow_client(server.address, url) as client:
        assert client.recv(12) == b"HTTP/1.1 200"
        with path.open("r+b") as file:
            file.seek(LARGE - 1)
            file.write(bytes([content[-1] ^ 1]))
        with contextlib.suppress(ConnectionResetError):
            assert len(received(client)) < LARGE
    assert server.client.get(url).status_code == 404
    assert "textured.glb" not in server.client.get(f"/jobs/{uid}").json()["files"]


def test_a_range_of_a_large_file_and_its_base64_are_those_bytes(
    stored: tuple[Server, str, bytes],
) -> None:
    server, uid, content = stored
    first, last = 5 * CHUNK_BYTES - 1, 9 * CHUNK_BYTES
    reply = server.client.get(
        f"/jobs/{uid}/textured.glb", headers={"Range": f"bytes={first}-{last}"}
    )
    assert (reply.status_code, reply.content) == (206, content[first : last + 1])
    assert server.client.get(f"/jobs/{uid}/textured.glb").content == content


def test_a_file_is_verified_once(
    stored: tuple[Server, str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, uid, _ = stored
    verified: list[int] = []
    from trellis2_server.storage.content import OpenFile

    sha256 = OpenFile.sha256

    def counted(file: OpenFile) -> bytes:
        verified.append(file.size)
        return sha256(file)

    monkeypatch.setattr(OpenFile, "sha256", counted)
    for _ in range(3):
        assert server.client.get(f"/jobs/{uid}/textured.glb").is_success
    assert verified == [LARGE]
