"""Finished models in other file types: made once, in turn, within the limits."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.hunyuan import finished, send
from tests.support.server import ON_RAY, fields, serving, settings, until
from trellis2_server.export import formats
from trellis2_server.inputs.images import Cutout, Cutter
from trellis2_server.jobs import conversions
from trellis2_server.jobs.threads import StepCancelled

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.server import Server

pytestmark = pytest.mark.skipif(ON_RAY, reason="needs the single process")
KEYS = {"alice": "a" * 20, "bob": "b" * 20}


class Conversions:
    """Counts conversions; each file type waits at its own gate, which is open at first."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.gates = {
            file_type: threading.Event() for file_type in ("obj", "ply", "stl", "obj_zip")
        }
        for gate in self.gates.values():
            gate.set()

    def hold(self, *file_types: str) -> None:
        for file_type in file_types:
            self.gates[file_type].clear()

    def release(self) -> None:
        for gate in self.gates.values():
            gate.set()

    def __call__(self, glb: bytes, file_type: Any, report: Any) -> bytes:
        self.started.append(file_type)
        try:
            while not self.gates[file_type].wait(0.005):
                report("held", 0, 1)
        except StepCancelled:
            self.stopped.append(file_type)
            raise
        return formats.convert(glb, file_type)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Conversions:
    counting = Conversions()
    monkeypatch.setattr("trellis2_server.jobs.executor.convert", counting)
    return counting


def finished_job(server: Server, seed: int = 1, **more: Any) -> str:
    uid = server.generate(fields(seed=seed, texture=True, **more)).headers["X-Job-Id"]
    until(lambda: server.is_idle, "everything is stored")
    return uid


def requests_that_wait(server: Server) -> int:
    calls = server.manager.export_calls
    return sum(sum(call.requests.values()) for call in (*calls._waiting, *calls._running))


def test_parallel_requests_for_a_file_convert_it_once(server: Server, made: Conversions) -> None:
    uid = finished_job(server)
    made.hold("obj")
    with ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(server.client.get, f"/jobs/{uid}/textured.obj") for _ in range(40)]
        until(lambda: requests_that_wait(server) == 40, "all wait")
        made.release()
        contents = {request.result(PATIENCE_S).raise_for_status().content for request in asked}
    assert len(contents) == 1
    assert server.client.get(f"/jobs/{uid}/textured.obj").content in contents
    assert made.started == ["obj"]
    assert list(server.client.get(f"/jobs/{uid}").json()["files"]) == [
        "input.png", "shape.glb", "textured.glb",
    ]  # fmt: skip


def test_head_converts_nothing(server: Server, made: Conversions) -> None:
    uid = finished_job(server)
    head = server.client.head(f"/jobs/{uid}/shape.stl")
    assert head.status_code == 200
    assert "Content-Length" not in head.headers
    assert head.headers["ETag"]
    assert made.started == []
    whole = server.client.get(f"/jobs/{uid}/shape.stl")
    head = server.client.head(f"/jobs/{uid}/shape.stl")
    assert int(head.headers["Content-Length"]) == len(whole.content)
    assert made.started == ["stl"]


def test_every_way_to_get_a_file_type_shares_one_conversion(
    server: Server, made: Conversions
) -> None:
    uid = finished_job(server)
    contents = [
        server.client.get(f"/jobs/{uid}/textured.ply").content,
        server.generate(fields(texture=True, type="ply")).content,
        server.client.post("/generate_texture", json={"uid": uid, "type": "ply"}).content,
    ]
    sent = send(server, fields(texture=True, type="ply"))
    contents += [finished(server, sent) for _ in range(3)]
    assert len(set(contents)) == 1
    assert contents[0].startswith(b"ply")
    assert made.started == ["ply"]
    exported = server.client.post(f"/jobs/{uid}/export", json={"type": "ply"})
    assert exported.content == contents[0]


def test_a_client_over_its_limit_is_refused_and_delays_others_by_one_call_a_thread(
    made: Conversions,
) -> None:
    class RecordedCutter(Cutter):
        def cut_out(self, *arguments: Any, **named: Any) -> Cutout:
            made.started.append("cutout")
            return super().cut_out(*arguments, **named)

    configured = settings(
        server={"api_keys": list(KEYS.values())},
        worker={"max_exports_per_client": 3, "limit_model_concurrency": 2},
    )
    cutter = RecordedCutter(background="none")
    with serving(GatedEngine(), configured, cutter) as server, ThreadPoolExecutor() as pool:
        alice, bob = (
            httpx.Client(base_url=server.url, headers={"X-API-Key": key}, timeout=PATIENCE_S)
            for key in KEYS.values()
        )
        until(lambda: alice.get("/healthcheck").is_success, "loaded")
        uids = [
            client.post("/generate", json=fields(texture=True)).headers["X-Job-Id"]
            for client in (alice, bob)
        ]
        until(lambda: server.is_idle, "everything is stored")
        made.started.clear()
        made.hold("obj", "ply", "stl", "obj_zip")
        asked = []
        for at, ending in enumerate(("obj", "ply", "stl"), 1):
            asked.append(pool.submit(alice.get, f"/jobs/{uids[0]}/shape.{ending}"))
            until(lambda at=at: server.queue_length == at, "queued")
        until(lambda: made.started == ["obj", "ply"], "two run")
        for refused in (
            alice.get(f"/jobs/{uids[0]}/shape.zip"),
            alice.post(f"/jobs/{uids[0]}/export", json={"texture": False}),
        ):
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) > 0
            assert "3 of your exports" in refused.json()["text"]
        asked.append(pool.submit(bob.get, f"/jobs/{uids[1]}/shape.zip"))
        until(lambda: server.queue_length == 4, "queued")
        asked.append(pool.submit(bob.post, "/generate", json=fields(2, seed=2)))
        until(lambda: server.queue_length == 5, "queued")
        made.gates["obj"].set()
        until(lambda: "obj_zip" in made.started, "another client's turn")
        made.gates["obj_zip"].set()
        until(lambda: "stl" in made.started, "the turn of the first one again")
        assert made.started == ["obj", "ply", "obj_zip", "cutout", "stl"]
        made.release()
        assert all(request.result(PATIENCE_S).is_success for request in asked)
        for client in (alice, bob):
            client.close()


def test_a_get_counts_in_the_rate_limit_if_it_makes_a_conversion(made: Conversions) -> None:
    with serving(GatedEngine(), settings(server={"rate_per_minute": 2})) as server:
        server.wait_until_loaded()
        uid = finished_job(server)  # the first request
        for _ in range(5):
            assert server.client.get(f"/jobs/{uid}/shape.obj").is_success
            assert server.client.head(f"/jobs/{uid}/shape.stl").is_success
            assert server.client.get(f"/jobs/{uid}/shape.glb").is_success
        refused = server.client.get(f"/jobs/{uid}/shape.ply")
        assert refused.status_code == 429
        assert refused.headers["Retry-After"]
        assert made.started == ["obj"]
        paths = server.client.get("/openapi.json").json()["paths"]
        assert {"429", "503"} <= paths["/jobs/{name}/{file_name}"]["get"]["responses"].keys()


def test_a_client_that_polls_after_send_pays_nothing_for_its_file_type(made: Conversions) -> None:
    with serving(GatedEngine(), settings(server={"rate_per_minute": 1})) as server:
        server.wait_until_loaded()
        sent = send(server, fields(texture=True, type="ply"))
        assert finished(server, sent).startswith(b"ply")
        assert made.started == ["ply"]


def test_a_conversion_goes_on_until_its_last_client_disconnects(
    server: Server, made: Conversions
) -> None:
    uid = finished_job(server)
    made.hold("obj")
    request = f"GET /jobs/{uid}/shape.obj HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    clients = [socket.create_connection(server.address) for _ in range(2)]
    for client in clients:
        client.sendall(request)
    until(lambda: requests_that_wait(server) == 2, "both wait")
    clients[0].close()
    until(lambda: requests_that_wait(server) == 1, "one waits")
    assert made.stopped == []
    clients[1].close()
    until(lambda: made.stopped == ["obj"], "stopped")
    made.release()
    assert server.client.get(f"/jobs/{uid}/shape.obj").is_success
    assert made.started == ["obj", "obj"]


def test_a_conversion_of_a_job_that_is_deleted_meanwhile_is_sent_but_not_stored(
    server: Server, made: Conversions
) -> None:
    uid = finished_job(server)
    other = server.manager.archive.size
    made.hold("stl")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.client.get, f"/jobs/{uid}/shape.stl")
        until(lambda: made.started == ["stl"], "it runs")
        assert server.client.delete(f"/jobs/{uid}").is_success
        made.release()
        assert asked.result(PATIENCE_S).is_success
    until(lambda: server.is_idle, "idle")
    assert server.manager.archive.size < other
    assert not server.manager.archive.files(uid)


def test_a_failed_conversion_is_reported_and_tried_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = finished_job(server)

    def fail(*_: Any) -> bytes:
        raise ValueError("no such luck")

    with monkeypatch.context() as patched:
        patched.setattr("trellis2_server.jobs.executor.convert", fail)
        assert server.client.get(f"/jobs/{uid}/shape.obj").status_code == 500
    assert server.client.get(f"/jobs/{uid}/shape.obj").is_success


# ---- stored conversions ----------------------------------------------------------------------


def test_after_a_restart_only_conversions_of_the_same_version_are_used(
    made: Conversions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = settings(worker={"result_dir": str(tmp_path)})

    def names() -> set[str]:
        return {path.name.partition("-textured")[2] for path in (tmp_path / "files").iterdir()}

    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        url = f"/jobs/{finished_job(server)}/textured.obj"
        content = server.client.get(url).content
    assert f".obj{conversions._SUFFIX}" in names()
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        assert server.client.head(url).headers["Content-Length"] == str(len(content))
        assert server.client.get(url).content == content
        assert made.started == ["obj"]
    monkeypatch.setattr(conversions, "_SUFFIX", "-99_0")
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        assert "Content-Length" not in server.client.head(url).headers
        assert server.client.get(url).content == content
        assert made.started == ["obj", "obj"]
    assert [name for name in names() if "obj" in name] == [".obj-99_0"]


@pytest.mark.parametrize("damage", ["flip", "gone"])
def test_a_damaged_conversion_is_made_again(made: Conversions, tmp_path: Path, damage: str) -> None:
    with serving(GatedEngine(), settings(worker={"result_dir": str(tmp_path)})) as server:
        server.wait_until_loaded()
        url = f"/jobs/{finished_job(server)}/textured.obj"
        content = server.client.get(url).content
        until(lambda: server.is_idle, "written")
        [path] = (tmp_path / "files").glob("*.obj-*")
        path.unlink()
        if damage == "flip":
            path.write_bytes(b"?" + content[1:])
        for _ in range(2):
            assert server.client.get(url).content == content
        assert made.started == ["obj", "obj"]


def test_stored_conversions_are_bounded_and_the_least_recently_used_goes_first(
    server: Server, made: Conversions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(uid: str, *endings: str) -> int:
        urls = [f"/jobs/{uid}/shape.{ending}" for ending in endings]
        return sum(len(server.client.get(url).raise_for_status().content) for url in urls)

    three = get(finished_job(server), "stl", "ply", "obj")
    uid = finished_job(server, seed=2)
    made.started.clear()
    # Such small models take far less than the limit that follows from the settings.
    stored = server.manager.results._conversions
    monkeypatch.setattr(stored, "_max_memory_bytes", three - 1)
    get(uid, "stl", "ply", "stl", "obj", "stl", "obj")
    assert made.started == ["stl", "ply", "obj"]
    get(uid, "ply")
    assert made.started == ["stl", "ply", "obj", "ply"]
    monkeypatch.setattr(stored, "_max_memory_bytes", 0)
    get(uid, "zip", "zip")  # without room, each request makes its own
    assert made.started[4:] == ["obj_zip", "obj_zip"]


def test_conversions_are_deleted_before_any_job(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (finished_job(server, seed=seed) for seed in (1, 2))
    archive, results = server.manager.archive, server.manager.results
    jobs = archive.size

    def set_limit(more: int) -> None:
        monkeypatch.setattr(results, "_max_bytes", jobs + more)
        monkeypatch.setattr(results._conversions, "_max_result_bytes", jobs + more)

    def is_stored(uid: str, file: str) -> bool:
        return "Content-Length" in server.client.head(f"/jobs/{uid}/{file}").headers

    stl = len(server.client.get(f"/jobs/{first}/shape.stl").content)
    set_limit(stl)
    assert server.client.get(f"/jobs/{second}/shape.stl").is_success
    assert not is_stored(first, "shape.stl")
    assert is_stored(second, "shape.stl")
    set_limit(10)  # no conversion fits
    assert server.client.get(f"/jobs/{second}/shape.ply").is_success
    assert archive.size == jobs
    set_limit(stl)
    assert server.client.get(f"/jobs/{second}/shape.stl").is_success
    finished_job(server, seed=3)  # a job needs the room
    assert not is_stored(second, "shape.stl")
    assert server.client.get(f"/jobs/{first}").status_code == 404
    assert server.client.get(f"/jobs/{second}").is_success
