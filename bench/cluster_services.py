"""More scenarios of `cluster_cuts.py`: the job service, the ingresses and the head are cut off.

Does not know: how figures are printed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from bench.cluster_scenarios import CUTS_S, PATIENCE_S, Reply, Scene, ask, pause, wait_until
from tests.support.cut_cluster import CutCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Future, ThreadPoolExecutor

    Row = dict[str, Any]

#: Time between two requests of a poll, seconds.
_INTERVAL_S = 0.5


class Poll:
    """Requests one path again and again, each without waiting for the one before.

    Args:
        scene: sends the requests.
        client: where.
        path: what.
    """

    def __init__(self, scene: Scene, client: httpx.Client, path: str) -> None:
        self._begin = time.monotonic()
        self._end = threading.Event()
        self._asked: list[Future[Reply]] = []
        self._scene, self._client, self._path = scene, client, path
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(_INTERVAL_S):
            self._asked.append(self._scene.pool.submit(ask, self._client, "GET", self._path))

    @property
    def is_answered(self) -> bool:
        """Whether the last request that has ended was answered."""
        ended = [each.result() for each in self._asked if each.done()]
        ended.sort(key=lambda reply: reply.ended)
        return bool(ended) and ended[-1].outcome == "200"

    def finish(self) -> Row:
        """Stop; return how the requests ended."""
        self._end.set()
        self._thread.join()
        replies = [each.result(PATIENCE_S) for each in self._asked]
        bad = [each for each in replies if each.outcome != "200"]
        found: Row = {
            "polls": dict(Counter(each.outcome for each in replies)),
            "longest_poll_s": round(max(each.seconds for each in replies), 1),
        }
        if bad:
            last = max(bad, key=lambda each: each.ended)
            later = [each.ended for each in replies if each.ended > last.ended]
            found["first_error_s"] = round(min(each.ended for each in bad) - self._begin, 1)
            found["last_error_s"] = round(last.ended - self._begin, 1)
            found["answers_again_s"] = round(min(later) - self._begin, 1) if later else None
            found["text"] = last.text
        return found


def _follow(client: httpx.Client, uid: str) -> Reply:
    """Read the events of a job to their end."""
    begin = time.monotonic()
    received = ""
    try:
        with client.stream("GET", f"/events/{uid}") as reply:
            for text in reply.iter_text():
                received = text
        outcome = str(reply.status_code)
    except httpx.HTTPError as error:
        outcome = type(error).__name__
    end = time.monotonic()
    return Reply(outcome, received[-80:], end - begin, end, uid)


def _seconds(reply: Future[Reply], begin: float) -> str:
    found = reply.result(PATIENCE_S)
    return f"{found.outcome} after {found.ended - begin:.1f} s {found.text}"


# ---- the job service ---------------------------------------------------------------------


def desk(pool: ThreadPoolExecutor) -> Iterable[Row]:
    """Cut the machine of the job service; another one could have it."""
    machines = {"m1": {"jobs": 1.0}, "m2": {"jobs": 1.0}}
    with CutCluster(machines) as cluster:
        cluster.deploy(engines=2, jobs_resources={"jobs": 1})
        scene = Scene(cluster, pool, jobs=1)
        scene.wait_for_engines(2)
        scene.job()[1].result(PATIENCE_S)
        for cut_s in (*CUTS_S, 40.0):
            yield _lose_desk(scene, f"cut {cut_s} s", cluster.network.cut, cut_s)
        yield _lose_desk(scene, "kill", cluster.network.kill)
        yield _lose_desk(scene, "power", cluster.network.power_off)
        yield _lose_desk(scene, "cut for good", cluster.network.cut)


def machine_with(scene: Scene, deployment: str) -> str:
    """Return the machine with the process of a deployment."""
    mark = f"ServeReplica:trellis2:{deployment}"
    for name, machine in scene.cluster.network.machines.items():
        if any(mark in command for command in machine.processes().values()):
            return name
    raise AssertionError(f"no process of {deployment}")


def _lose_desk(
    scene: Scene, what: str, end: Callable[[str], None], cut_s: float | None = None
) -> Row:
    scene.restart()
    _, reply = scene.job()
    done = reply.result(PATIENCE_S)
    assert done.outcome == "200", done
    scene.restart("shape")
    seed, waiting = scene.job()
    scene.machine_at("shape", seed)
    running = scene.view(seed)["uid"]
    events = scene.pool.submit(_follow, scene.client, running)
    machine = machine_with(scene, "jobs")
    poll = Poll(scene, scene.client, f"/jobs/{done.name}/textured.glb")
    pause(1)
    begin = time.monotonic()
    end(machine)
    if cut_s is not None:
        pause(cut_s)
        scene.cluster.network.mend(machine)
        scene.engine.open_all()
    row: Row = {
        "what": what,
        "waiting": _seconds(waiting, begin),
        "events": _seconds(events, begin),
    }
    scene.engine.open_all()
    wait_until(lambda: poll.is_answered, "the job service answers")
    pause(3)
    row |= poll.finish()
    row["finished_job"] = ask(scene.client, "GET", f"/jobs/{done.name}/textured.glb").outcome
    state = scene.client.get(f"/jobs/{running}").json()
    row["running_job"] = {name: state.get(name) for name in ("status", "error", "text")}
    again = scene.job()[1].result(PATIENCE_S)
    row["next_job"] = f"{again.outcome} {again.text}"
    row["runs_on"] = f"{machine} -> {machine_with(scene, 'jobs')}"
    if cut_s is None:
        scene.bring_back(machine)
    else:
        row["is_lost"] = scene.bring_back_if_lost(machine)
    return row


# ---- ingresses and the head --------------------------------------------------------------


@contextmanager
def two_ingresses(pool: ThreadPoolExecutor) -> Generator[Scene]:
    with CutCluster({"m1": {"ingress": 1.0}, "m2": {}}) as cluster:
        cluster.deploy("m1", engines=2, ingresses=2, ingress_resources={"ingress": 1})
        scene = Scene(cluster, pool)
        scene.wait_for_engines(2)
        scene.job()[1].result(PATIENCE_S)
        yield scene


def ingress(pool: ThreadPoolExecutor) -> Iterable[Row]:
    """Cut off the machine of one of two ingresses."""
    with two_ingresses(pool) as scene:
        for cut_s in (*CUTS_S, None):
            yield _cut_from(scene, "m1", cut_s)


def head(pool: ThreadPoolExecutor) -> Iterable[Row]:
    """Cut off the head; the clients are those of the other ingress."""
    with two_ingresses(pool) as scene:
        for cut_s in (*CUTS_S, None):
            yield _cut_from(scene, "head", cut_s)


def _cut_from(scene: Scene, name: str, cut_s: float | None) -> Row:
    """Cut one machine off from the others, but not the clients from an ingress on m1."""
    cluster = scene.cluster
    client = cluster.client("m1", timeout_s=PATIENCE_S)
    scene.restart("shape")
    seed, waiting = scene.job(client)
    scene.machine_at("shape", seed)
    uid = scene.view(seed)["uid"]
    events = scene.pool.submit(_follow, client, uid)
    pause(1)
    polls = [Poll(scene, client, f"/jobs/{uid}")]
    if name != "head":
        polls.append(Poll(scene, scene.client, f"/jobs/{uid}"))
    begin = time.monotonic()
    others = [each for each in cluster.network.machines if each != name]
    if name != "head":
        others.remove("client")
    cluster.network.cut_off(name, *others)
    submitted = scene.job(client)[1]
    pause(cut_s or 0)
    if cut_s is not None:
        cluster.network.mend(name, *others)
    scene.engine.open_all()
    row: Row = {
        "what": "for good" if cut_s is None else f"{cut_s} s",
        "waiting": _seconds(waiting, begin),
        "events": _seconds(events, begin),
        "submitted": _seconds(submitted, begin),
    }
    if cut_s is None:
        pause(max(0.0, 90 - (time.monotonic() - begin)))
    else:
        wait_until(lambda: all(poll.is_answered for poll in polls), "all answer")
    row["polls"] = [poll.finish() for poll in polls]
    if cut_s is not None:
        row["is_lost"] = scene.bring_back_if_lost(name)
    return row
