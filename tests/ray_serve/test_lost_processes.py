"""Processes and machines of a cluster that are lost during a step."""

from __future__ import annotations

import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.support.engines import GatedEngine
from tests.support.ray_cluster import LONG_S, add_machine, until_late
from tests.support.server import fields

if TYPE_CHECKING:
    from tests.support.ray_deployment import Deployment


def test_a_stage_whose_process_is_killed_is_repeated_once(deployment: Deployment) -> None:
    engine = GatedEngine("shape")
    with deployment.serving(engine), ThreadPoolExecutor() as pool:
        future = pool.submit(deployment.client.post, "/generate", json=fields(seed=1))
        until_late(lambda: deployment.control.processes, "a stage")
        os.kill(deployment.control.processes[0][2], signal.SIGKILL)
        until_late(lambda: len(deployment.control.processes) == 2, "the stage again")
        assert deployment.control.processes[1][2] != deployment.control.processes[0][2]
        engine.open_all()
        reply = future.result(LONG_S)
        assert reply.is_success
        textured = deployment.client.post(
            "/generate_texture", json={"image_hash": reply.headers["X-Image-Hash"]}
        )
        assert textured.is_success


def test_a_job_that_kills_every_process_ends_with_an_error(deployment: Deployment) -> None:
    engine = GatedEngine("shape")
    with deployment.serving(engine), ThreadPoolExecutor() as pool:
        future = pool.submit(deployment.client.post, "/generate", json=fields(seed=1))
        for count in (1, 2):
            until_late(lambda count=count: len(deployment.control.processes) == count, "a stage")
            os.kill(deployment.control.processes[-1][2], signal.SIGKILL)
        reply = future.result(LONG_S)
        assert reply.status_code == 500
        assert reply.json()["text"] == "the process that worked on it was lost, twice"


class SlowEngine(GatedEngine):
    """Takes a while for each stage, so that its process can be killed meanwhile."""

    def wait(self, stage: str, seed: int) -> None:
        super().wait(stage, seed)
        threading.Event().wait(0.5)


def test_killing_processes_at_random_under_load_loses_no_job(deployment: Deployment) -> None:
    n_jobs, n_kills = 12, 4
    chance = random.Random(8)  # noqa: S311 - the same choices in each run
    with deployment.serving(SlowEngine()), ThreadPoolExecutor(n_jobs) as pool:
        futures = [
            pool.submit(deployment.client.post, "/generate", json=fields(seed=seed, texture=True))
            for seed in range(n_jobs)
        ]
        killed: set[int] = set()
        for _ in range(n_kills):
            started = len(deployment.control.processes)
            until_late(
                lambda started=started: len(deployment.control.processes) > started,
                "another stage",
            )
            # No job twice: it would fail, as it should.
            _, seed, process, _ = chance.choice(deployment.control.processes[started:])
            if seed not in killed:
                killed.add(seed)
                os.kill(process, signal.SIGKILL)
        replies = [future.result(LONG_S) for future in futures]
        assert [reply.status_code for reply in replies] == [200] * n_jobs
        assert killed


def test_the_loss_of_a_machine_costs_time_only(deployment: Deployment) -> None:
    engine = GatedEngine("texture")
    with deployment.serving(engine), ThreadPoolExecutor() as pool:
        reply = deployment.client.post("/generate", json=fields(seed=1))
        assert reply.is_success
        until_late(lambda: ("texture", 1) in engine.calls, "the texture's stage")
        uid = reply.headers["X-Job-Id"]
        waiting = pool.submit(deployment.client.post, "/generate_texture", json={"uid": uid})
        lost = deployment.control.processes[-1][3]
        [machine] = [node for node in deployment.cluster.worker_nodes if node.node_id == lost]
        deployment.cluster.remove_node(machine, allow_graceful=False)
        add_machine(deployment.cluster)
        until_late(lambda: engine.calls.count(("texture", 1)) == 2, "the stage again")
        assert deployment.control.processes[-1][3] != lost
        engine.open_all()
        textured = waiting.result(LONG_S)
        assert textured.is_success, textured.text
