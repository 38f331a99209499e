"""Scenarios of `cluster_cuts.py`.

Does not know: how figures are printed.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import httpx

from bench.ray_bytes import torus
from tests.support.cut_cluster import CutCluster, PatientEngine
from tests.support.server import fields
from trellis2_server.mesh import Shape

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable
    from concurrent.futures import Future, ThreadPoolExecutor

    Row = dict[str, Any]

#: Longest wait for anything, seconds.
PATIENCE_S: Final = 600.0
#: Lengths of the cuts after which the machine comes back, seconds.
CUTS_S: Final = (5.0, 20.0)
#: Faces of a mesh whose export takes seconds.
_FACES: Final = 300_000


class Reply(NamedTuple):
    """How a request ended.

    Attributes:
        outcome: the status, or the name of the error.
        text: the beginning of the body.
        seconds: duration.
        ended: when it ended, in the time of `time.monotonic`.
        name: uid of the job.
    """

    outcome: str
    text: str
    seconds: float
    ended: float
    name: str


def ask(client: httpx.Client, method: str, path: str, **named: Any) -> Reply:
    """Send a request; return how it ended."""
    begin = time.monotonic()
    try:
        reply = client.request(method, path, **named)
        found = str(reply.status_code), "" if reply.is_success else reply.text[:160]
        name = reply.headers.get("X-Job-Id", "")
    except httpx.HTTPError as error:
        found, name = (type(error).__name__, str(error)), ""
    end = time.monotonic()
    return Reply(*found, end - begin, end, name)


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for a change; raise after `PATIENCE_S`."""
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > end:
            raise RuntimeError(f"never: {what}")
        pause(0.2)


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


class Scene:
    """A cluster, and requests to it.

    Args:
        cluster: deployed.
        pool: sends requests.
        resources: of each machine, besides its engine.
    """

    def __init__(self, cluster: CutCluster, pool: ThreadPoolExecutor, **resources: float) -> None:
        self.cluster, self.pool, self.resources = cluster, pool, resources
        self.client = cluster.client(timeout_s=PATIENCE_S)
        self.engine = PatientEngine()
        self._seed = 0

    def next_seeds(self, number: int) -> list[int]:
        """Return the seeds of the next jobs."""
        return [self._seed + 1 + n for n in range(number)]

    def restart(self, *closed: str) -> None:
        """Take a new engine, whose gates of these stages are closed."""
        self.engine = PatientEngine(*closed)
        self.cluster.steer(self.engine)

    def job(self, client: httpx.Client | None = None, **more: Any) -> tuple[int, Future[Reply]]:
        """Send another picture; return its seed, and the reply."""
        self._seed += 1
        body = fields(self._seed, texture=True) | {"seed": self._seed, **more}
        return self._seed, self.pool.submit(
            ask, client or self.client, "POST", "/generate", json=body
        )

    def machine_at(self, stage: str, seed: int) -> str:
        """Wait until a job is at a stage; return the machine."""

        def found() -> list[str]:
            return [each[3] for each in self.cluster.control.processes if each[:2] == (stage, seed)]

        wait_until(lambda: bool(found()), f"{stage} of {seed}")
        return self.cluster.machine_of(found()[-1])

    def view(self, seed: int) -> Row:
        """Return the job with that seed."""
        jobs = self.client.get("/jobs").json()["jobs"]
        return next((job for job in jobs if job.get("parameters", {}).get("seed") == seed), {})

    def wait_for_engines(self, number: int) -> None:
        """Wait until so many engines run."""

        def running() -> int:
            health = self.client.get("/healthcheck").json()
            return health.get("details", {}).get("engines", {}).get("running", 0)

        wait_until(lambda: running() >= number, f"{number} engines")

    def bring_back_if_lost(self, name: str) -> bool:
        """Start the machine again if Ray has given it up; return whether it had."""
        pause(5)
        is_lost = not self.cluster.machines_alive(name)
        if is_lost:
            self.bring_back(name)
        self.wait_for_engines(2)
        return is_lost

    def bring_back(self, name: str) -> None:
        """Start the machine again, as after a repair."""
        self.cluster[name].kill_all()
        self.cluster.network.mend(name)
        self.cluster.join(name, **self.resources)
        wait_until(lambda: bool(self.cluster.machines_alive(name)), f"{name} has joined")
        self.wait_for_engines(2)


@contextmanager
def two_machines(pool: ThreadPoolExecutor) -> Generator[Scene]:
    with CutCluster({"m1": {}, "m2": {}}) as cluster:
        cluster.deploy(engines=2)
        scene = Scene(cluster, pool)
        scene.wait_for_engines(2)
        seed, reply = scene.job()  # the processes of exports start
        assert reply.result(PATIENCE_S).outcome == "200", seed
        yield scene


# ---- engines -----------------------------------------------------------------------------


def _queued(scene: Scene) -> tuple[str, Future[Reply]]:
    scene.restart("shape")
    (first, _), _ = scene.job(), scene.job()
    scene.cluster.wait_for_stages(2)
    _, reply = scene.job()
    wait_until(lambda: scene.client.get("/healthcheck").json().get("queue_length", 3) >= 3, "3")
    return scene.machine_at("shape", first), reply


def _shape(scene: Scene) -> tuple[str, Future[Reply]]:
    scene.restart("shape")
    seed, reply = scene.job()
    return scene.machine_at("shape", seed), reply


def _between(scene: Scene) -> tuple[str, Future[Reply]]:
    """Both engines make shapes of others, which come first."""
    scene.restart()
    for seed in scene.next_seeds(3):
        scene.engine.hold("shape", seed)
    seed, reply = scene.job()
    machine = scene.machine_at("shape", seed)
    others = [scene.job()[0] for _ in range(2)]
    scene.machine_at("shape", others[0])
    scene.engine.hold("shape", seed).set()
    scene.machine_at("shape", others[1])
    return machine, reply


def _texture(scene: Scene) -> tuple[str, Future[Reply]]:
    scene.restart("texture")
    seed, reply = scene.job()
    return scene.machine_at("texture", seed), reply


def _export(scene: Scene) -> tuple[str, Future[Reply]]:
    """A mesh whose export takes seconds, cut off when its shape has just been made."""
    scene.restart("shape")
    scene.engine.returns["shape"] = Shape(torus(_FACES), 8, state=None)
    seed, reply = scene.job(decimation_target=1_000_000)
    machine = scene.machine_at("shape", seed)
    scene.engine.open_all()
    scene.machine_at("texture", seed)
    return machine, reply


STATES: Final[dict[str, Callable[[Scene], tuple[str, Future[Reply]]]]] = {
    "queued": _queued,
    "shape": _shape,
    "between": _between,
    "texture": _texture,
    "export": _export,
}


def engine(pool: ThreadPoolExecutor, states: Collection[str] = tuple(STATES)) -> Iterable[Row]:
    """Cut the machine of a job's engine, in some states of the job."""
    with two_machines(pool) as scene:
        for state in states:
            reach = STATES[state]
            for cut_s in CUTS_S:
                machine, reply = reach(scene)
                yield {"state": state, "what": f"cut {cut_s} s"} | _cut_for(
                    scene, machine, reply, cut_s
                )
            machine, reply = reach(scene)
            yield {"state": state, "what": "cut for good"} | _end(
                scene, machine, reply, scene.cluster.network.cut
            )
        for what in ("kill", "power"):
            for state in [each for each in ("shape", "export", "texture") if each in states]:
                machine, reply = STATES[state](scene)
                network = scene.cluster.network
                end = network.power_off if what == "power" else network.kill
                yield {"state": state, "what": what} | _end(scene, machine, reply, end)


def _cut_for(scene: Scene, machine: str, reply: Future[Reply], cut_s: float) -> Row:
    """Cut a machine, let its stage end while it is cut, mend it, and wait for the reply."""
    started = len(scene.cluster.control.processes)
    begin = time.monotonic()
    scene.cluster.network.cut(machine)
    pause(cut_s / 2)
    scene.engine.open_all()
    pause(cut_s / 2)
    scene.cluster.network.mend(machine)
    row = _row(scene, reply, begin, started)
    return row | {"is_lost": scene.bring_back_if_lost(machine)}


def _end(scene: Scene, machine: str, reply: Future[Reply], end: Callable[[str], None]) -> Row:
    """End a machine, wait for the reply, and bring the machine back."""
    started = len(scene.cluster.control.processes)
    begin = time.monotonic()
    end(machine)
    scene.engine.open_all()
    row = _row(scene, reply, begin, started)
    scene.bring_back(machine)
    return row


def _row(scene: Scene, reply: Future[Reply], begin: float, started: int) -> Row:
    found = reply.result(PATIENCE_S)
    return {
        "outcome": found.outcome,
        "text": found.text,
        "seconds": round(found.ended - begin, 1),
        "stages_started": len(scene.cluster.control.processes) - started,
    }
