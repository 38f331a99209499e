from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.server import encoded, fields, picture, until
from trellis2_server import __version__, cli
from trellis2_server.storage.store import DiskStore

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT = Path(__file__).resolve().parents[1]
ENTRY = ROOT / "api_server_trellis2.py"


def configured(folder: Path, **sections: dict[str, Any]) -> Path:
    file = folder / "config.json"
    model = {"engine": "preview", "background": "none"}
    export = {"glb_texture_size": 256, "glb_decimation_target": 2000}
    file.write_text(json.dumps({"model": model, "export": export, **sections}))
    return file


@pytest.fixture(autouse=True)
def untouched_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.logs, "configure", lambda _: None)


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments], config_folder=ROOT)


# ---- without serving -----------------------------------------------------------------------


def test_a_check_says_what_would_be_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--check", "--host", "::1", "--port", 9) == 0
    said = capsys.readouterr().out
    assert re.search(r"engine +preview \(asked for: auto\)", said)
    assert "::1:9" in said
    assert __version__ in said
    assert "warning" in said


def test_who_can_use_the_server_is_said_where_it_may_surprise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys"
    file.write_text("a-key")
    file.chmod(0o644)
    locked = configured(tmp_path, server={"api_keys_file": str(file)})
    said: list[str] = []
    for asked in (("--host", "0.0.0.0"), ("--host", "127.0.0.1"), ("--config", locked)):  # noqa: S104
        assert run("--check", *asked) == 0
        said.append(capsys.readouterr().out)
    assert ["anybody who reaches 0.0.0.0:8082" in each for each in said] == [True, False, False]
    if os.name == "posix":
        assert [f"can read the keys in {file}" in each for each in said] == [False, False, True]
    assert "1 API keys" in said[2]


@pytest.mark.skipif(sys.platform != "linux", reason="limits are another matter elsewhere")
def test_it_allows_itself_the_files_that_its_connections_need(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import resource

    kind = resource.RLIMIT_NOFILE
    soft, hard = resource.getrlimit(kind)
    try:
        resource.setrlimit(kind, (700, hard))
        cli._allow_descriptors(100)
        assert resource.getrlimit(kind) == (700, hard)
        cli._allow_descriptors(400)
        assert resource.getrlimit(kind) == (912, hard)
        assert not caplog.records
        if hard != resource.RLIM_INFINITY:
            cli._allow_descriptors(hard)
            assert resource.getrlimit(kind) == (hard, hard)
            assert f"may open {hard} files, too few" in caplog.text
    finally:
        resource.setrlimit(kind, (soft, hard))


def test_one_picture_becomes_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photo.png").write_bytes(picture())
    output = tmp_path / "new" / "out"
    asked = ("--config", configured(tmp_path), "--image", tmp_path / "photo.png")
    assert run(*asked, "--output", output) == 0
    files = sorted(output.iterdir())
    assert [file.name for file in files] == ["photo_shape.glb", "photo_textured.glb"]
    assert all(file.read_bytes()[:4] == b"glTF" for file in files)
    said = capsys.readouterr().out
    assert str(files[0]) in said
    assert "engine preview, background alpha, seed 42" in said


def test_what_cannot_be_done_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(tmp_path)
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "photo.png").write_bytes(picture())
    (tmp_path / "file").touch()
    (tmp_path / "out" / "photo_shape.glb").mkdir(parents=True)
    image = ("--config", config, "--image")
    for asked, said in (
        (("--config", tmp_path / "none.json"), "none.json: cannot be read"),
        (("--port", "99999"), "server.port: input should be less than or equal to 65535"),
        ((*image, tmp_path / "none.png"), "none.png: No such file"),
        ((*image, tmp_path / "text.png"), "image: not a PNG"),
        ((*image, tmp_path / "photo.png", "--output", tmp_path / "file"), "file: File exists"),
        ((*image, tmp_path / "photo.png", "--output", tmp_path / "out"), "shape.glb: Is a dir"),
    ):
        assert run(*asked) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ")
        assert said in error
        assert "\n" not in error


def test_a_bar_is_drawn_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for is_terminal, drawn in ((False, ""), (True, "\r[###############...............] bake")):
        monkeypatch.setattr(sys.stderr, "isatty", lambda is_terminal=is_terminal: is_terminal)
        bar = cli._Bar()
        bar.report("bake", 1, 2)
        assert capsys.readouterr().err.rstrip() == drawn
        bar.end()
        capsys.readouterr()


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_the_entry_file_answers_without_loading_anything(argument: str) -> None:
    done = subprocess.run(
        [sys.executable, ENTRY, argument], capture_output=True, text=True, check=True
    )
    assert done.stdout


# ---- serving, as a process -------------------------------------------------------------------


class Process:
    """The server as users start it."""

    def __init__(
        self, config: Path, environment: dict[str, str] | None = None, entry: Path = ENTRY
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, entry, "--config", config, "--host", "127.0.0.1",
             "--port", str(self.port)],
            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
            env=(environment or os.environ)
            | {"PYTHONWARNINGS": "default", "PYTHONPATH": str(ROOT)},
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
            return httpx.get(self.url + "/healthcheck", timeout=10).json()
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_at_rest_leaves_at_once_with_0(tmp_path: Path, number: int) -> None:
    with process(configured(tmp_path)) as server:
        until(lambda: server.health()["status"] == "ok", "ok")
        code, seconds = server.stop(number)
    assert code == 0
    assert seconds < 3
    said = "".join(server.log)
    assert "Traceback" not in said
    assert " Ready engine=preview" in said


def test_a_process_that_works_leaves_in_time_and_tells_everybody(tmp_path: Path) -> None:
    manager = {"limit_model_concurrency": 1}
    grace = {"shutdown_grace_seconds": 1.0}
    with process(configured(tmp_path, worker=manager, server=grace)) as server:
        until(lambda: server.health()["status"] == "ok", "ok")
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
        until(lambda: httpx.get(status).json()["queue_length"] == 4, "four jobs")
        code, seconds = server.stop()
        for thread in threads:
            thread.join(20)
    assert code == 0
    assert seconds < 10
    assert len(replies) == 4
    assert {reply.status_code for reply in replies} <= {200, 503}
    refused = [reply for reply in replies if reply.status_code == 503]
    assert refused
    assert all(reply.json()["text"] == "the server is shutting down" for reply in refused)
    assert all(int(reply.headers["retry-after"]) > 0 for reply in refused)
    assert "Traceback" not in "".join(server.log)


def test_a_client_that_never_ends_its_request_is_told_at_a_stop(tmp_path: Path) -> None:
    with process(configured(tmp_path, server={"shutdown_grace_seconds": 0.2})) as server:
        until(lambda: server.health()["status"] == "ok", "ok")
        head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=20) as half,
            socket.create_connection(("127.0.0.1", server.port), timeout=20) as less,
        ):
            half.sendall(head + b"{")
            less.sendall(b"POST /gen")
            server.health()  # a later connection's answer: both are open
            code, seconds = server.stop()
            assert half.recv(4096).startswith(b"HTTP/1.1 503 ")
    assert code == 0
    assert seconds < 5
    assert "Traceback" not in "".join(server.log)


def test_a_process_that_loads_leaves_in_time(tmp_path: Path) -> None:
    with process(configured(tmp_path)) as server:
        until(lambda: server.health()["status"] != "absent", "an answer")
        code, seconds = server.stop()
    assert code == 0
    assert seconds < 10


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    grace = {"shutdown_grace_seconds": 60.0}
    with process(configured(tmp_path, server=grace)) as server:
        until(lambda: server.health()["status"] == "ok", "ok")
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as half:
            half.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            until(lambda: server.health()["status"] == "ok", "a later connection's answer")
            server.process.send_signal(signal.SIGTERM)
            until(lambda: any("Waiting for connections" in line for line in server.log), "waiting")
            code, seconds = server.stop(signal.SIGINT)
    assert code == 0
    assert seconds < 3
    assert "Traceback" not in "".join(server.log)


KEYS = ("first-key-8d1f", "second-key-77aa", "third-key-e0c2")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_at_a_hangup_the_keys_and_the_level_are_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(KEYS[0])
    config = configured(tmp_path, server={"api_keys_file": str(file)})
    with process(config) as server:
        until(lambda: server.health()["status"] == "ok", "ok")

        def status(key: str) -> int:
            headers = {"X-API-Key": key}
            return httpx.get(server.url + "/worker_status", headers=headers).status_code

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
        until(lambda: server.health()["status"] == "ok", "ok")
        for key in (*KEYS, wrong):
            for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
                for method, path in (
                    ("GET", "/worker_status"), ("POST", f"/generate?key={key}"),
                    ("GET", f"/metrics?token={key}"), ("GET", "/healthcheck"),
                ):  # fmt: skip
                    reply = httpx.request(method, server.url + path, headers=headers)
                    assert key not in reply.text
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as junk:
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


def test_a_client_cannot_choose_its_address_but_through_a_trusted_proxy(tmp_path: Path) -> None:
    def statuses(proxies: list[str], *forwarded: str) -> list[int]:
        server = {"trusted_proxies": proxies, "rate_per_minute": 1}
        with process(configured(tmp_path, server=server)) as running:
            until(lambda: running.health()["status"] == "ok", "ok")
            return [
                httpx.post(running.url + "/send", headers={"X-Forwarded-For": each}).status_code
                for each in forwarded
            ]

    assert statuses([], "192.0.2.1", "192.0.2.2", "") == [400, 429, 429]
    # A proxy puts the address that it sees at the end.
    sent = ("192.0.2.1", "192.0.2.2", "192.0.2.9, 192.0.2.1", "127.0.0.1, 192.0.2.2")
    assert statuses(["127.0.0.0/8"], *sent) == [400, 400, 429, 429]


def test_a_process_whose_engine_hangs_says_so_and_leaves_for_a_new_one(tmp_path: Path) -> None:
    limits = {"stage_timeout_seconds": 2.0}
    config = configured(tmp_path, worker=limits)
    with process(config, entry=ROOT / "tests" / "support" / "hanging_server.py") as server:
        until(lambda: server.health()["status"] == "ok", "ok")
        reply = httpx.post(server.url + "/generate", json=fields(), timeout=60)
        assert (reply.status_code, reply.json()["text"]) == (500, "shape: did not end within 2 s")
        assert server.process.wait(20) == cli.EXIT_UNHEALTHY == 70
    said = "".join(server.log)
    assert "Unhealthy, a restart is due: shape: did not end within 2 s" in said
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_said_and_ends_the_process(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [sys.executable, ENTRY, "--config", configured(tmp_path), "--host", "127.0.0.1",
             "--port", str(taken.getsockname()[1])],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 3
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_file_stops_the_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ENTRY, "--config", configured(tmp_path, server={"prot": 1})],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "config.json: server.prot: unknown key; known here: host, port" in done.stderr


def test_a_second_server_on_a_folder_of_results_is_refused_in_one_line(tmp_path: Path) -> None:
    manager = {"result_dir": str(tmp_path / "results")}
    first = DiskStore(tmp_path / "results")
    first.claim()
    try:
        second = subprocess.run(
            [sys.executable, ENTRY, "--config", configured(tmp_path, worker=manager)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        first.close()
    assert second.returncode == 2
    assert "is in use by another server" in second.stderr.splitlines()[-1]
    assert "Traceback" not in second.stderr
