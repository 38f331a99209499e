from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.engines import GatedEngine
from tests.support.server import Server, encoded, fields, picture, serving, until
from trellis2_server.api import metrics as module
from trellis2_server.api.metrics import Metrics
from trellis2_server.errors import EngineError
from trellis2_server.jobs.job import Status
from trellis2_server.jobs.service import Health

if TYPE_CHECKING:
    from pathlib import Path

    from prometheus_client.samples import Sample

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.mesh import Shape
    from trellis2_server.parameters import Options
    from trellis2_server.reports import Report


def samples(server: Server) -> list[Sample]:
    """Return the samples of `/metrics`, parsed as Prometheus does."""
    reply = server.client.get("/metrics")
    assert reply.is_success
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return [
        each for family in text_string_to_metric_families(reply.text) for each in family.samples
    ]


def value(server: Server, name: str, **labels: str) -> float:
    """Return the value of the only sample with this name and these labels."""
    [found] = [
        sample.value
        for sample in samples(server)
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


def test_requests_are_counted_by_route_and_status_and_timed(server: Server) -> None:
    server.client.get("/worker_status")
    for path in ("/status/" + "0" * 32, "/status/" + "1" * 32, "/status/x"):
        server.client.get(path)
    for path in ("/nothing", "/nowhere"):
        server.client.get(path)
    server.client.request("BREW", "/generate")
    body = server.client.build_request("POST", "/generate", json=fields())
    glb = server.client.send(body)
    count = "trellis2_http_requests_total"
    not_found = {"method": "GET", "status": "404"}
    assert value(server, count, method="GET", route="/worker_status", status="200") == 1
    assert value(server, count, route="/status/{name}", **not_found) == 3
    assert value(server, count, route="other", **not_found) == 2
    assert value(server, count, method="other", status="405") == 1
    assert value(server, "trellis2_http_request_seconds_count", route="/generate") == 2
    assert value(server, "trellis2_http_request_seconds_sum", route="/generate") > 0
    assert value(server, "trellis2_http_received_bytes_total") == len(body.content)
    assert value(server, "trellis2_http_sent_bytes_total") > len(glb.content)


def test_gauges_show_the_current_state() -> None:
    engine = GatedEngine("load", "texture")
    engine.memory = {"used": 3, "peak": 5, "total": 8}
    with serving(engine) as server:
        assert value(server, "trellis2_ready", engine="gated") == 0
        engine.gates["load"].set()
        server.wait_until_loaded()
        assert value(server, "trellis2_ready", engine="gated") == 1
        assert server.generate().is_success
        engine.wait_for("texture")
        assert value(server, "trellis2_queue_length") == 1
        assert value(server, "trellis2_jobs_kept", status="texture_processing") == 1
        engine.gates["texture"].set()
        until(lambda: value(server, "trellis2_queue_length") == 0, "idle")
        assert value(server, "trellis2_jobs_kept", status="completed") == 1
        assert value(server, "trellis2_jobs_kept", status="texture_processing") == 0
        for kind, size in engine.memory.items():
            assert value(server, "trellis2_device_memory_bytes", kind=kind) == size
        assert value(server, "trellis2_threads") >= 3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_the_process_is_measured(server: Server) -> None:
    assert value(server, "process_resident_memory_bytes") > 10_000_000
    assert 3 < value(server, "process_open_fds") < value(server, "process_max_fds")


def test_two_apps_in_one_process_have_separate_metrics(server: Server) -> None:
    with serving(GatedEngine()) as other:
        for _ in range(3):
            other.client.get("/worker_status")
        server.client.get("/worker_status")
        assert value(server, "trellis2_http_requests_total", route="/worker_status") == 1


def test_clients_cannot_add_label_values(server: Server) -> None:
    before = len(samples(server))
    for k in range(50):
        server.client.get(f"/status/{k:032x}")
        server.client.get(f"/nothing/{k}", headers={"Host": f"h{k}", "X-Request-Id": f"{k}"})
        server.client.request(f"METHOD{k}", "/")
    # A counter, its creation time and a histogram for each route, not for each path.
    assert len(samples(server)) - before < 100


def test_jobs_are_counted_by_their_final_status_and_steps_are_timed(
    server: Server, engine: GatedEngine
) -> None:
    assert server.generate(fields(texture=True)).is_success
    ended, matched = "trellis2_jobs_ended_total", "trellis2_jobs_matched_total"
    assert value(server, ended, engine="gated", status="completed") == 1
    for step in ("cutout", "shape", "shape_export", "texture", "texture_export"):
        assert value(server, "trellis2_step_seconds_count", step=step) == 1
    assert server.generate().is_success
    assert value(server, matched, by="upload") == 1
    webp = encoded(picture(file_format="WEBP"))
    assert server.generate(fields(image=webp)).is_success
    assert value(server, matched, by="picture") == 1
    engine.failures["shape"] = EngineError("why")
    assert server.generate(fields(2)).status_code == 500
    assert value(server, ended, engine="gated", status="error") == 1
    held = engine.hold("shape", 5)
    uid = server.client.post("/send", json=fields(3, seed=5)).json()["uid"]
    engine.wait_for("shape")
    manager = server.manager
    active = manager.active_jobs.get(manager.registry.get(uid).uid)
    manager._loop.call_soon_threadsafe(manager.endings.cancel, active)
    until(lambda: server.client.get(f"/status/{uid}").json()["status"] == "error", "cancelled")
    held.set()
    assert value(server, ended, engine="gated", status="cancelled") == 1


def test_retries_after_running_out_of_memory_are_counted() -> None:
    class Greedy(GatedEngine):
        def shape(self, cutout: Cutout, options: Options, report: Report) -> Shape:
            report("shape", 0, 2)
            report("retry", 1, 2)
            report("retry", 2, 2)
            return super().shape(cutout, options, report)

    with serving(Greedy()) as server:
        server.wait_until_loaded()
        assert server.generate().is_success
        assert value(server, "trellis2_out_of_memory_retries_total") == 2


# ---- by themselves -----------------------------------------------------------------------------


def rendered(metrics: Metrics, health: Health | None = None) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels, without those of the process.

    The bound of a bucket is the last one.
    """
    text = metrics.render(health or Health("ok", "preview")).decode()
    return {
        (
            sample.name,
            *(each for name, each in sample.labels.items() if name != "le"),
            *(each for name, each in sample.labels.items() if name == "le"),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("trellis2_") and not sample.name.endswith("_created")
    }


HTTP_BOUNDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300]
STEP_BOUNDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600]


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("trellis2_http_request_seconds", HTTP_BOUNDS),
        ("trellis2_step_seconds", STEP_BOUNDS),
        ("trellis2_decoding_seconds", STEP_BOUNDS),
    ],
)
def test_durations_are_counted_in_the_buckets_that_dashboards_know(
    name: str, bounds: list[float]
) -> None:
    """Other bounds make another histogram: recorded ones cannot be added up with it."""
    metrics = Metrics()
    for seconds in (0.04, 3.0, 10_000.0):
        metrics.note_request("GET", "/x", 200, seconds, 0, 0)
        metrics.note_step("shape", seconds)
        metrics.note_decoding("shape", seconds)
    found = rendered(metrics)
    label = "/x" if "http" in name else "shape"
    buckets = [key for key in found if key[:2] == (f"{name}_bucket", label)]
    assert [float(key[2]) for key in buckets] == [*bounds, float("inf")]
    counts = [found[key] for key in buckets]
    assert counts == [sum(s <= bound for s in (0.04, 3.0, 10_000.0)) for bound in (*bounds, 1e9)]
    assert found[f"{name}_sum", label] == pytest.approx(10_003.04)


def test_everything_that_happens_is_counted_once() -> None:
    metrics = Metrics()
    metrics.note_request("POST", "/generate", 200, 1.0, 100, 7)
    metrics.note_request("POST", "/generate", 200, 1.0, 20, 3)
    metrics.note_request("PUT", "/generate", 405, 1.0, 0, 0)
    metrics.note_end("preview", Status.CANCELLED)
    metrics.note_match("upload")
    metrics.note_retry()
    metrics.note_decoder_end("crash")
    metrics.note_decoders(4)
    found = rendered(metrics)
    assert found["trellis2_http_requests_total", "POST", "/generate", "200"] == 2
    assert found["trellis2_http_requests_total", "other", "/generate", "405"] == 1
    assert found["trellis2_http_received_bytes_total",] == 120
    assert found["trellis2_http_sent_bytes_total",] == 10
    assert found["trellis2_jobs_ended_total", "preview", "cancelled"] == 1
    assert found["trellis2_jobs_matched_total", "upload"] == 1
    assert found["trellis2_out_of_memory_retries_total",] == 1
    assert found["trellis2_decoder_ends_total", "crash"] == 1
    assert found["trellis2_decoders",] == 4


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "HEAD", "OPTIONS"])
def test_the_methods_of_the_api_are_counted_by_their_names(method: str) -> None:
    metrics = Metrics()
    metrics.note_request(method, "/x", 200, 0.0, 0, 0)
    assert rendered(metrics)["trellis2_http_requests_total", method, "/x", "200"] == 1


def test_the_state_is_that_of_the_health() -> None:
    metrics = Metrics()
    health = Health(
        "ok", "preview", queue_length=3, jobs={Status.ERROR: 2}, memory={"used": 5, "total": 9}
    )
    found = rendered(metrics, health)
    assert found["trellis2_ready", "preview"] == 1
    assert found["trellis2_queue_length",] == 3
    assert {status: found["trellis2_jobs_kept", status.value] for status in Status} == {
        status: 2 if status is Status.ERROR else 0 for status in Status
    }
    assert found["trellis2_device_memory_bytes", "used"] == 5
    for state in ("loading", "error"):
        assert rendered(metrics, Health(state, "preview"))["trellis2_ready", "preview"] == 0


def test_each_thread_counts_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_THREADS", tmp_path)
    for name in ("1", "2", "3"):
        (tmp_path / name).touch()
    assert rendered(Metrics())["trellis2_threads",] == 3
    monkeypatch.setattr(module, "_THREADS", tmp_path / "none")  # not Linux
    monkeypatch.setattr(module.threading, "active_count", lambda: 5)
    assert rendered(Metrics())["trellis2_threads",] == 5
