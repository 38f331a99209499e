"""Machines that are cut off: with addresses, processes and memory of their own, on one host."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

pytest.importorskip("ray", reason="needs ray")

from tests.support.cut_cluster import SHORT_LIMITS, CutCluster, PatientEngine
from tests.support.network import why_unavailable
from tests.support.ray_cluster import LONG_S, until_late
from tests.support.server import fields

if TYPE_CHECKING:
    from collections.abc import Generator
    from concurrent.futures import Future


@pytest.fixture(scope="module")
def cluster() -> Generator[CutCluster]:
    """Two machines with an engine each, an ingress on the head, and one on m1."""
    reason = why_unavailable()
    if reason:
        pytest.skip(reason)
    with CutCluster({"m1": {"ingress": 1}, "m2": {}}, limits=SHORT_LIMITS) as cluster:
        cluster.deploy("m1", engines=2, ingresses=2, ingress_resources={"ingress": 1})
        yield cluster


def follow(client: httpx.Client, uid: str) -> list[str]:
    with client.stream("GET", f"/events/{uid}") as reply:
        return [line for line in reply.iter_lines() if line.startswith("data:")]


def outcome(future: Future[httpx.Response]) -> int | str:
    try:
        return future.result(LONG_S).status_code
    except httpx.TransportError:
        return "no answer"


def job_of(client: httpx.Client, seed: int) -> dict[str, Any]:
    jobs = client.get("/jobs").json()["jobs"]
    return next((job for job in jobs if job["parameters"]["seed"] == seed), {})


def test_after_a_cut_of_seconds_every_job_and_every_request_goes_on(cluster: CutCluster) -> None:
    engine = PatientEngine("texture")
    engine.hold("shape", 2)
    cluster.steer(engine)
    clients = [cluster.client("head"), cluster.client("m1")]
    bodies = {seed: fields(seed, texture=True) | {"seed": seed} for seed in (1, 2, 3)}
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(clients[0].post, "/generate", json=bodies[1])]
        until_late(lambda: ("texture", 1) in engine.calls, "one makes a texture")
        waiting += [pool.submit(clients[1].post, "/generate", json=bodies[2])]
        until_late(lambda: ("shape", 2) in engine.calls, "one makes a shape")
        waiting += [pool.submit(client.post, "/generate", json=bodies[3]) for client in clients]
        until_late(lambda: bool(job_of(clients[0], 3)), "one waits")
        uid = job_of(clients[0], 2)["uid"]
        following = [pool.submit(follow, client, uid) for client in clients]
        cluster.network.cut("head", "m1", "m2", "client")
        engine.open_all()
        asked = [pool.submit(client.get, f"/jobs/{uid}") for client in clients]
        threading.Event().wait(3)
        assert not any(future.done() for future in (*waiting, *following, *asked))
        cluster.network.mend("head", "m1", "m2", "client")
        replies = [future.result(LONG_S) for future in (*waiting, *asked)]
        assert [reply.status_code for reply in replies] == [200] * 6
        for events in (future.result(LONG_S) for future in following):
            assert '"completed"' in events[-1]
    # No stage was repeated.
    assert sorted(engine.calls) == [
        (stage, seed) for stage in ("shape", "texture") for seed in (1, 2, 3)
    ]


def test_a_machine_that_is_cut_off_for_good_costs_its_jobs_time_only(cluster: CutCluster) -> None:
    engine = PatientEngine("shape")
    cluster.steer(engine)
    with ThreadPoolExecutor() as pool:
        head, other = cluster.client("head"), cluster.client("m1")
        bodies = [fields(seed) | {"seed": seed} for seed in (11, 12)]
        lost = pool.submit(other.post, "/generate", json=bodies[0])
        cluster.wait_for_stages(1)
        waiting = [pool.submit(head.post, "/generate", json=body) for body in bodies]
        cluster.wait_for_stages(2)
        cluster.network.cut_off("m1", "head", "m2")
        engine.open_all()
        asked = pool.submit(other.get, "/jobs")
        replies = [future.result(LONG_S) for future in waiting]
        assert [reply.status_code for reply in replies] == [200, 200]
        for future in (lost, asked):
            # Ray may end that machine's processes before the time limit.
            assert outcome(future) in {503, "no answer"}
        assert head.get("/jobs").is_success
    # The stage on that machine was repeated.
    assert sorted(seed for stage, seed in engine.calls if stage == "shape") in (
        [11, 11, 12],
        [11, 12, 12],
    )
