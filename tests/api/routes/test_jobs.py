"""Jobs over HTTP: listed, shown, watched, cancelled and deleted."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.server import fields, serving, settings, until
from trellis2_server.api.routes import jobs
from trellis2_server.errors import EngineError
from trellis2_server.parameters import fields_of, read_options
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

    from tests.support.server import Server


def send(server: Server, **more: Any) -> str:
    reply = server.client.post("/send", json=fields(texture=True, **more))
    assert reply.is_success
    return reply.json()["uid"]


def parsed(lines: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    """Parse the events of a stream, without comments."""
    events: list[tuple[str, dict[str, Any]]] = []
    kind = ""
    for line in lines:
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            events.append((kind, json.loads(line.removeprefix("data: "))))
    return events


def watch(server: Server, name: str) -> list[tuple[str, dict[str, Any]]]:
    with server.client.stream("GET", f"/events/{name}") as stream:
        assert stream.status_code == 200
        return parsed(stream.iter_lines())


def test_a_job_has_all_its_details(server: Server) -> None:
    begin = time.time()
    made = server.generate(fields(seed=7, texture=True, ss_sampling_steps=5))
    image_hash = made.headers["x-image-hash"]
    details = server.client.get(f"/jobs/{image_hash}").json()
    assert details == server.client.get(f"/jobs/{made.headers['x-job-id']}").json()
    assert details == server.client.get(f"/api/jobs/{image_hash}").json()
    assert details.items() >= {
        "status": "completed",
        "seed": 7,
        "image_hash": image_hash,
        "background": "alpha",
        "engine": "gated",
        "shape_ready": True,
        "texture_ready": True,
    }.items()  # fmt: skip
    assert begin - 1 < details["created_at"] <= details["finished_at"] < time.time() + 1
    steps = ["cutout", "shape", "shape_export", "texture", "texture_export"]
    assert sorted(details["timings"]) == sorted(steps)
    assert all(0 <= seconds < PATIENCE_S for seconds in details["timings"].values())
    assert details["parameters"]["ss_sampling_steps"] == 5
    again = server.generate({"image": fields()["image"], "texture": True, **details["parameters"]})
    assert again.headers["x-job-id"] == details["uid"]


def test_the_parameters_of_a_job_reproduce_its_options() -> None:
    options = read_options({"seed": 3, "compress": "draco", "tex_rescale_t": 4}, Settings())
    configured = settings(export={"compress": "meshopt"}, generation={"seed": 9})
    assert read_options(fields_of(options), configured) == options
    plain = read_options({}, Settings())
    assert read_options(fields_of(plain), configured) == plain


def test_jobs_are_listed_in_pages(server: Server) -> None:
    made = [server.generate(fields(seed=seed)).headers["x-job-id"] for seed in range(5)]
    first = server.client.get("/jobs?limit=3").json()
    assert [job["uid"] for job in first["jobs"]] == made[:1:-1]
    second = server.client.get(f"/jobs?limit=3&before={first['next']}").json()
    assert [job["uid"] for job in second["jobs"]] == made[1::-1]
    assert "next" not in second
    for query, status in (("limit=0", 400), ("limit=101", 400), ("before=x", 404)):
        assert server.client.get(f"/jobs?{query}").status_code == status


def test_a_job_is_watched_to_its_end(server: Server, engine: GatedEngine) -> None:
    engine.gates["shape"].clear()
    uid = send(server)
    engine.wait_for("shape")
    with server.client.stream("GET", f"/events/{uid}") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-cache, no-transform"
        assert stream.headers["x-accel-buffering"] == "no"
        lines = stream.iter_lines()
        assert next(lines) == "event: status"
        assert json.loads(next(lines).removeprefix("data: "))["status"] == "shape_processing"
        engine.open_all()
        events = parsed(lines)
    assert [kind for kind, _ in events[:-1]] == ["status"] * (len(events) - 1)
    kind, last = events[-1]
    assert (kind, last["status"]) == ("end", "completed")
    assert last == server.client.get(f"/jobs/{uid}").json()
    assert watch(server, uid) == [("end", last)]
    assert watch(server, last["image_hash"]) == [("end", last)]


def test_a_stream_ends_with_the_error(server: Server, engine: GatedEngine) -> None:
    engine.failures["texture"] = EngineError("no voxels were left")
    kind, last = watch(server, send(server))[-1]
    assert (kind, last["status"], last["error"]) == ("end", "error", "no voxels were left")


def test_a_quiet_stream_sends_heartbeats_and_ends_its_subscription_on_disconnect(
    server: Server, engine: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "HEARTBEAT_S", 0.05)
    engine.gates["shape"].clear()
    uid = send(server)
    engine.wait_for("shape")
    with server.client.stream("GET", f"/events/{uid}") as stream:
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith(":")) == ": heartbeat"
        assert server.subscriptions == 1
    until(lambda: not server.subscriptions, "no subscription")


def test_a_shutdown_ends_every_stream(engine: GatedEngine) -> None:
    configured = settings(server={"shutdown_grace_seconds": 0.1})
    with serving(engine, configured) as server, ThreadPoolExecutor() as pool:
        server.wait_until_loaded()
        engine.gates["shape"].clear()
        uid = send(server)
        engine.wait_for("shape")
        streams = [pool.submit(watch, server, uid) for _ in range(3)]
        until(lambda: server.subscriptions == 3, "three subscriptions")
        server.close_soon()
        for stream in streams:
            kind, last = stream.result(PATIENCE_S)[-1]
            assert (kind, last["error"]) == ("end", "the server is shutting down")


def test_deleting_cancels_a_running_job_and_then_removes_it(
    server: Server, engine: GatedEngine
) -> None:
    engine.gates["shape"].clear()
    uid = send(server)
    with ThreadPoolExecutor() as pool:
        engine.wait_for("shape")
        waiting = pool.submit(server.texture, uid=uid)
        until(lambda: server.waiters, "a waiting client")
        deleted = server.client.delete(f"/jobs/{uid}")
        assert (deleted.status_code, deleted.content) == (204, b"")
        assert waiting.result(PATIENCE_S).status_code == 409
    details = server.client.get(f"/jobs/{uid}").json()
    assert (details["status"], details["error"]) == ("error", "cancelled")
    engine.open_all()
    assert server.generate(fields(seed=2)).is_success
    assert server.client.delete(f"/jobs/{uid}").status_code == 204
    for path in ("/jobs", "/status", "/events"):
        assert server.client.get(f"{path}/{uid}").status_code == 404
    assert server.client.delete(f"/jobs/{uid}").json()["error_code"] == 1


def test_no_route_shows_the_jobs_of_another_key(engine: GatedEngine) -> None:
    with serving(engine, settings(server={"api_keys": ["alice's", "bob's"]})) as server:
        alice, bob = (
            httpx.Client(base_url=server.url, headers={"X-API-Key": key}, timeout=PATIENCE_S)
            for key in ("alice's", "bob's")
        )
        with alice, bob:
            until(lambda: alice.get("/healthcheck").is_success, "loaded")
            body = fields(texture=True)
            hers = alice.post("/generate", json=body)
            alias = alice.post("/send", json=body).json()["uid"]
            image_hash, uid = hers.headers["x-image-hash"], hers.headers["x-job-id"]
            for name in (image_hash, uid, alias):
                for path in ("status", "jobs", "events"):
                    assert bob.get(f"/{path}/{name}").status_code == 404
                    assert alice.get(f"/{path}/{name}").status_code == 200
                assert bob.delete(f"/jobs/{name}").status_code == 404
                key = "image_hash" if name == image_hash else "uid"
                assert bob.post("/generate_texture", json={key: name}).status_code == 404
            assert bob.get("/jobs").json() == {"jobs": []}
            assert bob.post("/generate_texture", json={"image": body["image"]}).status_code == 404
            his = bob.post("/generate", json=body)
            assert his.headers["x-job-id"] != uid
            assert server.client.get(f"/jobs/{uid}").status_code == 401
    assert engine.calls.count(("shape", 1)) == 2
    assert "alice's" not in repr(list(server.manager.registry))
