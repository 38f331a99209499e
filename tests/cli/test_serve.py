"""The server as a process: start, stop, signals, and what it writes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.background_packages import MODEL, NAME, needs_pooch, stand_in_packages
from tests.support.engines import PATIENCE_S
from tests.support.server import encoded, fields, picture, until
from tests.support.server_command import ENTRY, ROOT, configured
from trellis2_server.cli.serve import EXIT_UNHEALTHY

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


class Process:
    """The server as users start it."""

    def __init__(
        self, config: Path, environment: dict[str, str] | None = None, entry: Path = ENTRY
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.began = time.monotonic()
        more = [environment["PYTHONPATH"]] if environment and "PYTHONPATH" in environment else []
        self.process = subprocess.Popen(
            [sys.executable, entry, "--config", config, "--host", "127.0.0.1",
             "--port", str(self.port)],
            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
            env=(environment or os.environ)
            | {"PYTHONWARNINGS": "default", "PYTHONPATH": os.pathsep.join((str(ROOT), *more))},
        )  # fmt: skip
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        with self.process.stderr as lines:
            self.log.extend(lines)

    def health(self) -> dict[str, Any]:
        try:
            return httpx.get(self.url + "/healthcheck", timeout=PATIENCE_S).json()
        except httpx.TransportError:
            return {"status": "absent"}

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """The exit code, and how long leaving took."""
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(20)
        return code, time.monotonic() - began

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        self._reader.join(20)


@contextmanager
def process(
    config: Path, environment: dict[str, str] | None = None, entry: Path = ENTRY
) -> Generator[Process]:
    running = Process(config, environment, entry)
    try:
        yield running
    finally:
        running.end()


def until_ready(server: Process) -> None:
    """Wait as long as a start takes on a busy machine."""
    until(lambda: server.health()["status"] == "ok", "ok", patience_s=4 * PATIENCE_S)


@pytest.mark.costly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_process_exits_at_once_with_0(tmp_path: Path, number: int) -> None:
    with process(configured(tmp_path)) as server:
        until_ready(server)
        code, seconds = server.stop(number)
    assert code == 0
    assert seconds < 3
    said = "".join(server.log)
    assert "Traceback" not in said
    assert " Ready engine=preview" in said


@pytest.mark.costly
@needs_pooch
@pytest.mark.parametrize("wanted", [None, True, False])
def test_a_server_is_ready_while_it_fetches_its_background_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, wanted: bool | None
) -> None:
    with stand_in_packages(tmp_path, monkeypatch) as origin:
        origin.may_end.clear()
        config = configured(
            tmp_path,
            model={
                "engine": "preview",
                "background": "auto" if wanted is None else "grabcut",
                "background_model": NAME,
                "background_prefetch": wanted,
            },
        )
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "packages")}
        with process(config, environment) as server:
            until_ready(server)
            if wanted is False:
                assert "background_model" not in server.health()
                return
            assert origin.reached.wait(60)
            until(lambda: server.health()["background_model"].get("bytes", 0) > 0, "progress")
            state = server.health()["background_model"]
            assert state["bytes"] < state["total"] == len(MODEL)
            assert (state["name"], state["state"]) == (NAME, "fetching")
            assert state["file"] == f"{NAME}.onnx"
            origin.may_end.set()
            ready = {"name": NAME, "state": "ready"}
            until(lambda: server.health()["background_model"] == ready, "the model")
            assert server.stop()[0] == 0
    assert origin.downloads == 1


@pytest.mark.costly
def test_a_busy_process_exits_in_time_and_answers_every_client(tmp_path: Path) -> None:
    manager = {"limit_model_concurrency": 1}
    grace = {"shutdown_grace_seconds": 1.0}
    with process(configured(tmp_path, worker=manager, server=grace)) as server:
        until_ready(server)
        replies: list[httpx.Response] = []

        def ask(shade: int) -> None:
            big = {"texture_size": 4096, "decimation_target": 200_000}
            body = {**fields(shade, texture=True), **big}
            body["image"] = encoded(picture(shade, 1000))
            replies.append(httpx.post(server.url + "/generate", json=body, timeout=60))

        threads = [threading.Thread(target=ask, args=(shade,)) for shade in range(4)]
        for thread in threads:
            thread.start()
        status = server.url + "/worker_status"
        until(
            lambda: httpx.get(status, timeout=PATIENCE_S).json()["queue_length"] == 4, "four jobs"
        )
        code, seconds = server.stop()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert code == 0
    assert seconds < 10
    assert len(replies) == 4
    assert {reply.status_code for reply in replies} <= {200, 503}
    refused = [reply for reply in replies if reply.status_code == 503]
    assert refused
    assert all(reply.json()["text"] == "the server is shutting down" for reply in refused)
    assert all(int(reply.headers["retry-after"]) > 0 for reply in refused)
    assert "Traceback" not in "".join(server.log)


@pytest.mark.costly
def test_a_client_that_never_ends_its_request_gets_503_at_shutdown(tmp_path: Path) -> None:
    with process(configured(tmp_path, server={"shutdown_grace_seconds": 0.2})) as server:
        until_ready(server)
        head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as half,
            socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as less,
        ):
            half.sendall(head + b"{")
            less.sendall(b"POST /gen")
            server.health()  # a later connection's answer: both are open
            code, seconds = server.stop()
            assert half.recv(4096).startswith(b"HTTP/1.1 503 ")
    assert code == 0
    assert seconds < 5
    assert "Traceback" not in "".join(server.log)


@pytest.mark.costly
def test_a_loading_process_exits_in_time(tmp_path: Path) -> None:
    with process(configured(tmp_path)) as server:
        until(lambda: server.health()["status"] != "absent", "an answer")
        code, seconds = server.stop()
    assert code == 0
    assert seconds < 10


@pytest.mark.costly
def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    grace = {"shutdown_grace_seconds": 60.0}
    with process(configured(tmp_path, server=grace)) as server:
        until_ready(server)
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as half:
            half.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            until(lambda: server.health()["status"] == "ok", "a later connection's answer")
            server.process.send_signal(signal.SIGTERM)
            until(lambda: any("Waiting for connections" in line for line in server.log), "waiting")
            code, seconds = server.stop(signal.SIGINT)
    assert code == 0
    assert seconds < 3
    assert any("Open requests have at most 61 s to end" in line for line in server.log)
    assert "Traceback" not in "".join(server.log)


KEYS = ("first-key-8d1f", "second-key-77aa", "third-key-e0c2")


@pytest.mark.costly
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_a_hangup_reloads_the_keys_and_the_log_level(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(KEYS[0])
    config = configured(tmp_path, server={"api_keys_file": str(file)})
    with process(config) as server:
        until_ready(server)

        def status(key: str) -> int:
            headers = {"X-API-Key": key}
            return httpx.get(
                server.url + "/worker_status", headers=headers, timeout=PATIENCE_S
            ).status_code

        def hang_up(said: str) -> None:
            before = len(server.log)
            server.process.send_signal(signal.SIGHUP)
            until(lambda: any(said in line for line in server.log[before:]), said)

        assert [status(key) for key in KEYS] == [200, 401, 401]
        file.write_text(f"{KEYS[1]}\n{KEYS[2]}\n")
        assert status(KEYS[1]) == 401
        configured(tmp_path, server={"api_keys_file": str(file), "log_level": "debug"})
        hang_up("Reloaded keys=2 log_level=debug")
        assert [status(key) for key in KEYS] == [401, 200, 200]
        assert any(" DEBUG " in line for line in server.log)
        file.write_text("# none")
        hang_up(f"Not reloaded: server.api_keys_file: {file} holds no key")
        configured(tmp_path)
        hang_up("Keys not reloaded")
        assert [status(key) for key in KEYS] == [401, 200, 200]
        assert server.stop()[0] == 0


@pytest.mark.costly
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_key_is_ever_written(tmp_path: Path, log_format: str) -> None:
    file = tmp_path / "keys"
    file.write_text(KEYS[1])
    level = {"log_level": "debug", "log_format": log_format}
    keys = {"api_keys": [KEYS[0]], "api_keys_file": str(file)}
    config = configured(tmp_path, server={**level, **keys})
    environment = os.environ | {"TRELLIS2_SERVER_API_KEYS": KEYS[2]}
    wrong = "wrong-key-55ff"
    with process(config, environment) as server:
        until_ready(server)
        for key in (*KEYS, wrong):
            for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
                for method, path in (
                    ("GET", "/worker_status"), ("POST", f"/generate?key={key}"),
                    ("GET", f"/metrics?token={key}"), ("GET", "/healthcheck"),
                ):  # fmt: skip
                    reply = httpx.request(method, server.url + path, headers=headers)
                    assert key not in reply.text
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as junk:
            junk.sendall(f"JUNK\r\nX-API-Key: {KEYS[0]}\r\n\r\n".encode())
            assert KEYS[0].encode() not in junk.recv(4096)
        assert server.stop()[0] == 0
    asked = [sys.executable, ENTRY, "--config", config, "--check"]
    checked = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    assert "3 API keys" in checked.stdout
    wrong_file = configured(tmp_path, server={"api_keys": [KEYS[0], 5]})
    broken = subprocess.run(
        [*asked[:2], "--config", wrong_file], capture_output=True, text=True, check=False
    )
    assert broken.returncode == 2
    said = "".join(server.log) + checked.stdout + checked.stderr + broken.stdout + broken.stderr
    assert "/worker_status" in said
    for key in (*KEYS, wrong):
        assert key not in said
    if log_format == "json":
        lines = [json.loads(line) for line in server.log]
        assert {line["logger"].split(".")[0] for line in lines} >= {"trellis2_server", "uvicorn"}


@pytest.mark.costly
def test_a_client_cannot_choose_its_address_except_through_a_trusted_proxy(tmp_path: Path) -> None:
    def statuses(proxies: list[str], *forwarded: str) -> list[int]:
        server = {"trusted_proxies": proxies, "rate_per_minute": 1}
        with process(configured(tmp_path, server=server)) as running:
            until_ready(running)
            return [
                httpx.post(
                    running.url + "/send", headers={"X-Forwarded-For": each}, timeout=PATIENCE_S
                ).status_code
                for each in forwarded
            ]

    assert statuses([], "192.0.2.1", "192.0.2.2", "") == [400, 429, 429]
    # A proxy puts the address that it sees at the end.
    sent = ("192.0.2.1", "192.0.2.2", "192.0.2.9, 192.0.2.1", "127.0.0.1, 192.0.2.2")
    assert statuses(["127.0.0.0/8"], *sent) == [400, 400, 429, 429]


@pytest.mark.costly
def test_a_process_whose_engine_hangs_logs_it_and_exits_with_70(tmp_path: Path) -> None:
    limits = {"stage_timeout_seconds": 2.0}
    config = configured(tmp_path, worker=limits)
    with process(config, entry=ROOT / "tests" / "support" / "hanging_server.py") as server:
        until_ready(server)
        reply = httpx.post(server.url + "/generate", json=fields(), timeout=60)
        assert (reply.status_code, reply.json()["text"]) == (500, "shape: did not end within 2 s")
        assert server.process.wait(20) == EXIT_UNHEALTHY == 70
    said = "".join(server.log)
    assert "Unhealthy, a restart is due: shape: did not end within 2 s" in said
    assert "Traceback" not in said


def test_what_a_server_has_loaded_is_left_out_of_garbage_collections() -> None:
    code = """
import asyncio, gc
from types import SimpleNamespace
import uvicorn
from trellis2_server.cli.serve import _Server

lifecycle = SimpleNamespace(status="loading")
app = SimpleNamespace(state=SimpleNamespace())
server = _Server(uvicorn.Config(app), app)

def tick():
    assert asyncio.run(server.on_tick(1)) is False
    return gc.get_freeze_count()

print(tick())
app.state.manager = SimpleNamespace(lifecycle=lifecycle)
print(tick())
lifecycle.status = "ok"
loaded = tick()
print(loaded > 10_000)
later = [[] for _ in range(loaded)]
print(tick() <= loaded)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.split() == ["0", "0", "True", "True"]
