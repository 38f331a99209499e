"""Steps on the engines of a cluster."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray", reason="needs ray")

from tests.support import shapes
from tests.support.cut_cluster import PatientEngine
from tests.support.engines import GatedEngine
from tests.support.pictures import encode
from tests.support.ray_cluster import LONG_S, until_late
from tests.support.ray_deployment import machines
from tests.support.server import encoded, fields, serving
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.mesh import Shape
from trellis2_server.ray_serve import application

if TYPE_CHECKING:
    from tests.support.ray_deployment import Deployment


class NamedPreview(PreviewEngine):
    """The preview, with the name that the deployment's files contain."""

    name = GatedEngine().name


def test_the_files_are_those_of_the_single_process(deployment: Deployment) -> None:
    bodies = [fields(200, texture=True), fields(200, texture=False), fields(201, texture=True)]
    engine = NamedPreview()
    with serving(engine) as server:
        server.wait_until_loaded()
        local = [server.generate(body).content for body in bodies]
    with deployment.serving(engine):
        remote = [deployment.client.post("/generate", json=body).content for body in bodies]
    assert remote == local


def test_pictures_and_models_of_many_megabytes_pass(deployment: Deployment) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1500, 1500, 4), np.uint8)
    noise[..., 3] = 255
    noise[:200, :, 3] = 0
    file = encode(Image.fromarray(noise), compress_level=1)
    engine = GatedEngine()
    engine.returns["shape"] = Shape(shapes.torus(600, 250), 8, state=None)
    body = fields(203, texture=False) | {
        "image": encoded(file),
        "decimation_target": 1_000_000,
    }
    assert len(file) > 5_000_000
    with deployment.serving(engine):
        reply = deployment.client.post("/generate", json=body)
        assert reply.status_code == 200, reply.text
        assert len(reply.content) > 5_000_000
        view = deployment.client.get("/jobs").json()["jobs"][0]
        again = deployment.client.get(f"/jobs/{view['uid']}/shape.glb")
        assert again.content == reply.content
        given = deployment.client.get(f"/jobs/{view['uid']}/input.png")
        assert given.status_code == 200


def test_every_engine_works_and_no_more_stages_are_started(deployment: Deployment) -> None:
    engine = GatedEngine("shape")
    with deployment.serving(engine), ThreadPoolExecutor() as pool:
        futures = [
            pool.submit(deployment.client.post, "/generate", json=fields(seed=seed))
            for seed in range(5)
        ]
        until_late(lambda: len(deployment.control.processes) == 2, "two stages at once")
        assert len({process for _, _, process, _ in deployment.control.processes}) == 2
        until_late(
            lambda: deployment.client.get("/worker_status").json()["queue_length"] == 5,
            "five jobs",
        )
        assert len(deployment.control.processes) == 2
        engine.open_all()
        assert all(future.result(LONG_S).is_success for future in futures)


def test_a_cancelled_stage_stops_and_frees_its_engine(deployment: Deployment) -> None:
    engine = GatedEngine("shape")
    with deployment.serving(engine), ThreadPoolExecutor() as pool:
        uids = [
            deployment.client.post("/send", json=fields(seed=seed)).json()["uid"] for seed in (1, 2)
        ]
        until_late(lambda: len(deployment.control.processes) == 2, "both engines work")
        waiting = [
            pool.submit(deployment.client.post, "/generate", json=fields(seed=seed))
            for seed in (1, 2)
        ]
        for uid in uids:
            assert deployment.client.delete(f"/jobs/{uid}").status_code == 204
        engine.gates["shape"].set()
        assert {future.result(LONG_S).status_code for future in waiting} <= {200, 409}
        started = len(deployment.control.processes)
        engine.gates["shape"].clear()
        futures = [
            pool.submit(deployment.client.post, "/generate", json=fields(seed=seed))
            for seed in (3, 4)
        ]
        until_late(lambda: len(deployment.control.processes) == started + 2, "both work again")
        engine.open_all()
        assert all(future.result(LONG_S).is_success for future in futures)


def test_progress_comes_from_the_engine(deployment: Deployment) -> None:
    with deployment.serving(GatedEngine("texture")):
        reply = deployment.client.post("/generate", json=fields(seed=1))
        uid = reply.headers["X-Job-Id"]

        def stage() -> Any:
            return deployment.client.get(f"/jobs/{uid}").json().get("stage")

        until_late(lambda: stage() == "texture", "the engine reports its stage")


def test_an_engine_that_cannot_be_loaded_on_one_machine_leaves_the_others_serving(
    deployment: Deployment,
) -> None:
    failing = machines()[0]
    load_errors = {failing: "the weights are not there"}
    with deployment.serving(GatedEngine(), load_errors=load_errors, engines=3):

        def is_noted() -> bool:
            health = deployment.client.get("/healthcheck")
            return health.is_success and any(
                "could not be loaded: the weights are not there" in note
                for note in health.json().get("notes", ())
            )

        until_late(is_noted, "a note")
        assert deployment.client.post("/generate", json=fields(seed=1)).is_success


def test_when_no_engine_can_be_loaded_the_server_says_why(deployment: Deployment) -> None:
    load_errors = dict.fromkeys(machines(), "the weights are not there")
    with deployment.serving(GatedEngine(), load_errors=load_errors, is_ready=False, engines=1):
        until_late(lambda: deployment.health().get("status") == "error", "it has failed")
        assert "the weights are not there" in deployment.health()["error"]
        reply = deployment.client.post("/generate", json=fields(seed=1))
        assert reply.status_code == 503
        assert "the weights are not there" in reply.json()["text"]


def test_an_engine_is_started_when_jobs_wait(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "_UPSCALE_DELAY_S", 0.5)
    engine = PatientEngine("shape")
    with (
        deployment.serving(engine, engines=2, min_engines=1),
        ThreadPoolExecutor() as pool,
    ):
        futures = [
            pool.submit(deployment.client.post, "/generate", json=fields(seed=seed))
            for seed in range(2)
        ]
        until_late(lambda: len(deployment.control.processes) == 2, "a stage in a second engine")
        assert len({process for _, _, process, _ in deployment.control.processes}) == 2
        engine.open_all()
        assert all(future.result(LONG_S).is_success for future in futures)
