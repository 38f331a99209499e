from __future__ import annotations

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("ray", reason="needs ray")

from tests.support.engines import GatedEngine
from tests.support.ray_cluster import LONG_S, until_late
from tests.support.ray_deployment import processes
from tests.support.server import fields
from trellis2_server.jobs.service import JobService
from trellis2_server.ray_serve.remote_service import RemoteJobService
from trellis2_server.storage.store import Artifact

if TYPE_CHECKING:
    from tests.support.ray_deployment import Deployment


def test_every_method_of_the_service_is_implemented() -> None:
    # An inherited method of a protocol would return None.
    methods = {name for name in vars(JobService) if not name.startswith("_")}
    assert methods <= set(vars(RemoteJobService))


def test_arguments_reach_the_jobs_process_by_position_and_by_name() -> None:
    calls: list[tuple[Any, ...]] = []

    class Service(RemoteJobService):
        async def call(
            self, method: str, timeout_s: float | None, /, *args: Any, **named: Any
        ) -> Any:
            calls.append((method, timeout_s, args, named))

    job: Any = object()
    asyncio.run(Service().wait_for_texture(job, timeout_s=5))
    asyncio.run(Service().delete("uid"))
    assert calls == [
        ("wait_for_texture", None, (job,), {"timeout_s": 5}),
        ("delete", 20.0, ("uid",), {}),
    ]


def test_responses_of_an_ingress_share_the_content_of_a_file_while_they_send_it() -> None:
    calls: list[str] = []

    class Service(RemoteJobService):
        async def call(
            self, method: str, timeout_s: float | None, /, *args: Any, **named: Any
        ) -> Any:
            del timeout_s, args, named
            calls.append(method)
            await asyncio.sleep(0)
            content = bytes([len(calls)]) * 1000
            return (content, ("a warning",)) if method == "export" else content

    async def scenario() -> None:
        service, model = Service(), Artifact("u", "shape.glb", 1000)
        first, second = await asyncio.gather(*(service.read_file(model) for _ in range(2)))
        assert first is second is await service.convert(model, "glb")
        assert calls == ["read_file"] * 2
        converted = await service.convert(model, "obj")
        assert converted is await service.convert(model, "obj")
        assert calls[2:] == ["convert"]
        assert converted.load() != first.load()
        del first, second
        assert (await service.read_file(model)).load()[0] == len(calls) == 4
        job: Any = object()
        exported = [await service.export(job, job, texture=None) for _ in range(2)]
        assert exported[0].content.load() != exported[1].content.load()
        assert exported[0].warnings == ("a warning",)

    asyncio.run(scenario())


def test_all_ingresses_give_the_same_answers_and_a_killed_one_loses_no_job(
    deployment: Deployment,
) -> None:
    with deployment.serving(GatedEngine("texture")):
        reply = deployment.client.post("/generate", json=fields(seed=1))
        uid, image_hash = (reply.headers[name] for name in ("X-Job-Id", "X-Image-Hash"))
        for process in processes("ingresses"):
            for _ in range(6):  # any of them answers
                assert deployment.client.get(f"/status/{image_hash}").json()["uid"] == uid
            os.kill(process, signal.SIGKILL)
            until_late(lambda: deployment.answers(f"jobs/{uid}"), "another ingress answers")
        deployment.control.engine.open_all()
        textured = deployment.client.post("/generate_texture", json={"uid": uid})
        assert textured.is_success


def test_finished_jobs_survive_when_the_jobs_process_is_killed(deployment: Deployment) -> None:
    with deployment.serving(GatedEngine()):
        reply = deployment.client.post("/generate", json=fields(seed=1, texture=True))
        uid = reply.headers["X-Job-Id"]
        until_late(lambda: len(list(deployment.results.glob("files/*"))) >= 3, "written")
        [process] = processes("jobs")
        os.kill(process, signal.SIGKILL)
        until_late(lambda: deployment.answers(f"jobs/{uid}"), "another jobs process answers")
        assert deployment.client.get(f"/jobs/{uid}/textured.glb").content == reply.content
        assert deployment.client.get("/jobs/" + uid).json()["status"] == "completed"


def test_a_jobs_process_that_hangs_is_a_503_within_the_time_limit(deployment: Deployment) -> None:
    with deployment.serving(GatedEngine()):
        [process] = processes("jobs")
        os.kill(process, signal.SIGSTOP)
        try:
            with ThreadPoolExecutor() as pool:
                futures = [
                    pool.submit(deployment.client.get, "/jobs"),
                    pool.submit(deployment.client.post, "/generate", json=fields(seed=1)),
                ]
                health = deployment.client.get("/healthcheck")
                replies = [future.result(LONG_S) for future in futures]
        finally:
            os.kill(process, signal.SIGCONT)
        assert (health.status_code, health.json()["status"]) == (503, "error")
        for reply in replies:
            assert (reply.status_code, reply.json()["error_code"]) == (503, 3)
            assert reply.headers["Retry-After"]
