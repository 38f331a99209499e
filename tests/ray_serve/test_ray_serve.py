"""The deployment on Ray: what a single process does not have.

The API's tests run against it too: `TRELLIS2_SERVER_TESTS_ON=ray pytest tests/test_routes*.py`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from tests.support.engines import GatedEngine
from tests.support.ray_cluster import (
    LONG_S,
    Control,
    add_machine,
    controlling,
    deploy,
    make_cutter,
    ray_cluster,
    steered,
    until_late,
)
from tests.support.server import fields, serving, settings
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")


class Far:
    """A deployment, and what steers it.

    Attributes:
        cluster: Ray's.
        control: of its engines.
        client: of its server.
        url: where that is.
        results: the folder of its results, a new one for each application.
    """

    def __init__(
        self, cluster: Any, control: Control, address: tuple[str, int], url: str, folder: Path
    ) -> None:
        self.cluster, self.control, self.url = cluster, control, url
        self._address, self._folder, self.results = address, folder, folder
        self._deployed: object = None
        self.client = httpx.Client(base_url=url, timeout=LONG_S)

    @contextmanager
    def deployed(
        self,
        engine: Any,
        *,
        why_not: Mapping[str, str] | None = None,
        is_ready: bool = True,
        **cluster: Any,
    ) -> Generator[None]:
        """The application, with engines that this one steers.

        Args:
            engine: steers them.
            why_not: why no engine can be loaded, by machine.
            is_ready: whether to wait until it serves.
            cluster: how much of the cluster is used; if nothing is said, two engines and two
                ingresses.
        """
        cluster = cluster or {"engines": 2, "ingresses": 2}
        self._steer(engine)
        self.control.why_not = dict(why_not or {})
        if (why_not, cluster) == self._deployed:  # deploying takes longer than most tests
            until_late(lambda: _answers(self, "jobs"), "it serves")
            for job in self.client.get("/jobs").json()["jobs"]:
                self.client.delete(f"/jobs/{job['uid']}")
        else:
            self._delete()
            self._deployed = (why_not, cluster)
            try:
                self._deploy(is_ready=is_ready, **cluster)
            except BaseException:
                self._delete()
                raise
        try:
            yield
        finally:
            if isinstance(engine, GatedEngine):
                engine.open_all()

    def _deploy(self, *, is_ready: bool, **cluster: Any) -> None:
        from trellis2_server.ray_serve import ClusterSettings, build_app

        self.results = self._folder / str(len(list(self._folder.iterdir())))
        self.results.mkdir()
        sizes = {"engine_resources": {"engine": 1}, "num_gpus": 0} | cluster
        application = build_app(
            settings(worker={"result_dir": str(self.results)}),
            ClusterSettings(**sizes),
            choose_engine=steered(self._address),
            make_cutter=make_cutter,
            engine_name=GatedEngine().name,
        )
        deploy(application, self.url, is_ready=is_ready)

    def _steer(self, engine: Any) -> None:
        self.control.engine = engine
        self.control.processes.clear()

    def _delete(self) -> None:
        from ray import serve

        if self._deployed is not None:
            self._deployed = None
            serve.delete("trellis2")


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Generator[Far]:
    with ray_cluster(2) as (cluster, url), controlling() as (control, address):
        yield Far(cluster, control, address, url, tmp_path_factory.mktemp("results"))


def test_nothing_but_the_deployment_imports_ray() -> None:
    code = (
        "import sys, trellis2_server.api.app, trellis2_server.cli, trellis2_server.client\n"
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"engine": "4"}, "engine: "),
        ({"engines": "four"}, "engines: "),
        ({"engines": "2", "min_engines": "3"}, "min_engines"),
        ({"config": "nowhere.json"}, "nowhere.json"),
    ],
)
def test_an_argument_that_cannot_be_meant_is_named(args: dict[str, str], named: str) -> None:
    from trellis2_server.ray_serve import build

    with pytest.raises(ConfigError, match=named):
        build(args)


class NamedPreview(PreviewEngine):
    """The preview, under the name that the files of the deployment bear."""

    name = GatedEngine().name


def test_the_files_are_those_of_the_single_process(far: Far) -> None:
    asked = [fields(200, texture=True), fields(200, texture=False), fields(201, texture=True)]
    engine = NamedPreview()
    with serving(engine) as server:
        server.wait_until_loaded()
        here = [server.generate(each).content for each in asked]
    with far.deployed(engine):
        there = [far.client.post("/generate", json=each).content for each in asked]
    assert there == here


def test_every_engine_is_kept_at_work_and_no_more_stages_are_begun(far: Far) -> None:
    engine = GatedEngine("shape")
    with far.deployed(engine), ThreadPoolExecutor() as pool:
        made = [
            pool.submit(far.client.post, "/generate", json=fields(seed=seed)) for seed in range(5)
        ]
        until_late(lambda: len(far.control.processes) == 2, "two stages at once")
        assert len({process for _, _, process, _ in far.control.processes}) == 2
        until_late(
            lambda: far.client.get("/worker_status").json()["queue_length"] == 5, "five jobs"
        )
        assert len(far.control.processes) == 2
        engine.open_all()
        assert all(reply.result(LONG_S).is_success for reply in made)


def test_a_stage_whose_process_is_killed_is_done_again_once(far: Far) -> None:
    engine = GatedEngine("shape")
    with far.deployed(engine), ThreadPoolExecutor() as pool:
        making = pool.submit(far.client.post, "/generate", json=fields(seed=1))
        until_late(lambda: far.control.processes, "a stage")
        os.kill(far.control.processes[0][2], signal.SIGKILL)
        until_late(lambda: len(far.control.processes) == 2, "the stage once more")
        assert far.control.processes[1][2] != far.control.processes[0][2]
        engine.open_all()
        reply = making.result(LONG_S)
        assert reply.is_success
        textured = far.client.post(
            "/generate_texture", json={"image_hash": reply.headers["X-Image-Hash"]}
        )
        assert textured.is_success


def test_a_job_that_kills_every_process_ends_with_an_error(far: Far) -> None:
    engine = GatedEngine("shape")
    with far.deployed(engine), ThreadPoolExecutor() as pool:
        making = pool.submit(far.client.post, "/generate", json=fields(seed=1))
        for count in (1, 2):
            until_late(lambda count=count: len(far.control.processes) == count, "a stage")
            os.kill(far.control.processes[-1][2], signal.SIGKILL)
        reply = making.result(LONG_S)
        assert reply.status_code == 500
        assert reply.json()["text"] == "the process that worked on it was lost, twice"


class SlowEngine(GatedEngine):
    """Takes a while for each stage, so that something can happen to it."""

    def wait(self, stage: str, seed: int) -> None:
        super().wait(stage, seed)
        threading.Event().wait(0.5)


def test_killing_processes_at_random_under_load_loses_no_job(far: Far) -> None:
    n_jobs, n_kills = 12, 4
    chance = random.Random(8)  # noqa: S311 - it has to kill the same ones each time
    with far.deployed(SlowEngine()), ThreadPoolExecutor(n_jobs) as pool:
        made = [
            pool.submit(far.client.post, "/generate", json=fields(seed=seed, texture=True))
            for seed in range(n_jobs)
        ]
        killed: set[int] = set()
        for _ in range(n_kills):
            begun = len(far.control.processes)
            until_late(lambda begun=begun: len(far.control.processes) > begun, "another stage")
            # No job twice: that one would be given up, as it should.
            _, seed, process, _ = chance.choice(far.control.processes[begun:])
            if seed not in killed:
                killed.add(seed)
                os.kill(process, signal.SIGKILL)
        replies = [reply.result(LONG_S) for reply in made]
        assert [reply.status_code for reply in replies] == [200] * n_jobs
        assert killed


def test_a_cancelled_stage_stops_and_frees_its_engine(far: Far) -> None:
    engine = GatedEngine("shape")
    with far.deployed(engine), ThreadPoolExecutor() as pool:
        uids = [far.client.post("/send", json=fields(seed=seed)).json()["uid"] for seed in (1, 2)]
        until_late(lambda: len(far.control.processes) == 2, "both engines at work")
        waiting = [
            pool.submit(far.client.post, "/generate", json=fields(seed=seed)) for seed in (1, 2)
        ]
        for uid in uids:
            assert far.client.delete(f"/jobs/{uid}").status_code == 204
        engine.gates["shape"].set()
        assert {reply.result(LONG_S).status_code for reply in waiting} <= {200, 409}
        begun = len(far.control.processes)
        engine.gates["shape"].clear()
        making = [
            pool.submit(far.client.post, "/generate", json=fields(seed=seed)) for seed in (3, 4)
        ]
        until_late(lambda: len(far.control.processes) == begun + 2, "both at work again")
        engine.open_all()
        assert all(reply.result(LONG_S).is_success for reply in making)


@pytest.mark.usefixtures("far")
def test_what_is_large_stays_where_it_was_made() -> None:
    import ray
    from ray.experimental import get_object_locations

    from trellis2_server.ray_serve.stream import follow

    @ray.remote(num_cpus=0, resources={"engine": 1}, num_returns="streaming")
    def step() -> Generator[Any]:
        yield "progress", "shape", 0, 1
        yield "result", ray.get_runtime_context().get_node_id(), 2
        for _ in range(2):
            threading.Event().wait(0.2)  # so that it is not there yet when it is asked for
            yield np.zeros(5_000_000, np.uint8)

    async def opening() -> Any:
        return step.remote()

    async def make() -> tuple[str, list[Any]]:
        return await follow(opening(), lambda *_: None)

    node, large = asyncio.run(make())
    assert {tuple(at["node_ids"]) for at in get_object_locations(large).values()} == {(node,)}


def test_progress_comes_from_the_engine(far: Far) -> None:
    with far.deployed(GatedEngine("texture")):
        reply = far.client.post("/generate", json=fields(seed=1))
        uid = reply.headers["X-Job-Id"]

        def stage() -> Any:
            return far.client.get(f"/jobs/{uid}").json().get("stage")

        until_late(lambda: stage() == "texture", "the engine says where it is")


def test_any_ingress_gives_the_same_answers_and_one_that_is_killed_loses_nothing(
    far: Far,
) -> None:
    with far.deployed(GatedEngine("texture")):
        reply = far.client.post("/generate", json=fields(seed=1))
        uid, image_hash = (reply.headers[name] for name in ("X-Job-Id", "X-Image-Hash"))
        for process in _processes("ingresses"):
            for _ in range(6):  # whichever of them answers
                assert far.client.get(f"/status/{image_hash}").json()["uid"] == uid
            os.kill(process, signal.SIGKILL)
            until_late(lambda: _answers(far, f"jobs/{uid}"), "another ingress answers")
        far.control.engine.open_all()
        textured = far.client.post("/generate_texture", json={"uid": uid})
        assert textured.is_success


def test_a_desk_that_is_killed_keeps_what_is_finished(far: Far) -> None:
    with far.deployed(GatedEngine()):
        reply = far.client.post("/generate", json=fields(seed=1, texture=True))
        uid = reply.headers["X-Job-Id"]
        until_late(lambda: len(list(far.results.glob("files/*"))) >= 3, "written")
        [process] = _processes("desk")
        os.kill(process, signal.SIGKILL)
        until_late(lambda: _answers(far, f"jobs/{uid}"), "another desk answers")
        assert far.client.get(f"/jobs/{uid}/textured.glb").content == reply.content
        assert far.client.get("/jobs/" + uid).json()["status"] == "completed"


def test_a_desk_that_hangs_is_a_503_and_no_hang(far: Far) -> None:
    with far.deployed(GatedEngine()):
        [process] = _processes("desk")
        os.kill(process, signal.SIGSTOP)
        try:
            with ThreadPoolExecutor() as pool:
                asked = [
                    pool.submit(far.client.get, "/jobs"),
                    pool.submit(far.client.post, "/generate", json=fields(seed=1)),
                ]
                health = far.client.get("/healthcheck")
                replies = [reply.result(LONG_S) for reply in asked]
        finally:
            os.kill(process, signal.SIGCONT)
        assert (health.status_code, health.json()["status"]) == (503, "error")
        for reply in replies:
            assert (reply.status_code, reply.json()["error_code"]) == (503, 3)
            assert reply.headers["Retry-After"]


def test_a_machine_that_is_lost_costs_time_alone(far: Far) -> None:
    engine = GatedEngine("texture")
    with far.deployed(engine), ThreadPoolExecutor() as pool:
        reply = far.client.post("/generate", json=fields(seed=1))
        assert reply.is_success
        until_late(lambda: ("texture", 1) in engine.calls, "the texture's stage")
        uid = reply.headers["X-Job-Id"]
        waiting = pool.submit(far.client.post, "/generate_texture", json={"uid": uid})
        lost = far.control.processes[-1][3]
        [machine] = [node for node in far.cluster.worker_nodes if node.node_id == lost]
        far.cluster.remove_node(machine, allow_graceful=False)
        add_machine(far.cluster)
        until_late(lambda: engine.calls.count(("texture", 1)) == 2, "the stage once more")
        assert far.control.processes[-1][3] != lost
        engine.open_all()
        textured = waiting.result(LONG_S)
        assert textured.is_success, textured.text


def test_the_configuration_file_that_ships_is_one_of_serves() -> None:
    import yaml
    from ray.serve.schema import ServeDeploySchema

    from trellis2_server.ray_serve import ClusterSettings

    root = Path(__file__).parents[2]
    content = yaml.safe_load((root / "deploy" / "ray_serve.yaml").read_text(encoding="utf-8"))
    [application] = ServeDeploySchema.model_validate(content).applications
    assert application.import_path == "trellis2_server.ray_serve:build"
    config = ClusterSettings.model_validate(application.args).config
    assert config is not None
    assert (root / config).is_file()


def test_an_engine_that_cannot_be_loaded_on_one_machine_leaves_the_others_serving(
    far: Far,
) -> None:
    failing = _machines()[0]
    with far.deployed(GatedEngine(), why_not={failing: "the weights are not there"}, engines=3):

        def is_told() -> bool:
            health = far.client.get("/healthcheck")
            return health.is_success and any(
                "could not be loaded: the weights are not there" in note
                for note in health.json().get("notes", ())
            )

        until_late(is_told, "it is said")
        assert far.client.post("/generate", json=fields(seed=1)).is_success


def test_when_no_engine_can_be_loaded_the_server_says_why(far: Far) -> None:
    why_not = dict.fromkeys(_machines(), "the weights are not there")
    with far.deployed(GatedEngine(), why_not=why_not, is_ready=False, engines=1):
        until_late(lambda: _health(far).get("status") == "error", "it has failed")
        assert "the weights are not there" in _health(far)["error"]
        reply = far.client.post("/generate", json=fields(seed=1))
        assert reply.status_code == 503
        assert "the weights are not there" in reply.json()["text"]


def test_what_was_lost_with_a_machine_is_made_again_from_the_cutout() -> None:  # noqa: C901 - a fleet that loses things
    from ray.exceptions import ObjectLostError

    from trellis2_server.parameters import read_options
    from trellis2_server.ray_serve import ClusterSettings
    from trellis2_server.ray_serve.executor import ClusterExecutor

    class Handle:
        def options(self, **_: Any) -> Handle:
            return self

    class Losing(ClusterExecutor):
        """Loses what the first of each step goes on from."""

        def __init__(self) -> None:
            cluster = ClusterSettings(engines=1)
            super().__init__(settings(), cluster, "gated", Handle(), Handle(), "trellis2")
            self.asked: list[str] = []

        def _lose(self, what: str) -> None:
            self.asked.append(what)
            if what in {"export_shape", "texture", "export_model"} and self.asked.count(what) == 1:
                raise ObjectLostError("id", None, "")  # type: ignore[arg-type]

        async def _on_engine(self, what: str, *parts: Any, report: Any) -> tuple[Any, list[Any]]:
            del parts, report
            self._lose(what)
            if what == "shape":
                return (8, (), "node"), [f"mesh {len(self.asked)}", "state"]
            return ("node", ()), ["field"]

        async def _as_task(
            self, step: Any, *parts: Any, node: str | None, report: Any
        ) -> tuple[Any, list[Any]]:
            del parts, node, report
            self._lose(step.__name__)
            glb: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            glb.set_result(b"glb")
            if step.__name__ == "export_shape":
                return "md5", ["prepared", glb]
            return None, [glb if step.__name__ == "export_model" else "prepared again"]

    def report(stage: str, step: int, steps: int) -> None:
        del stage, step, steps

    async def make() -> tuple[bytes, bytes, list[str]]:
        executor, options = Losing(), read_options({}, settings())
        cutout: Any = object()
        shape = await executor.make_shape(cutout, options, report)
        geometry, plain, _ = await executor.export_shape(shape, options, report)
        field = await executor.make_texture(geometry, cutout, options, report)
        return plain, await executor.export_model(geometry, field, options, report), executor.asked

    plain, textured, asked = asyncio.run(make())
    assert (plain, textured) == (b"glb", b"glb")
    assert asked == [
        "shape", "export_shape",
        "shape", "export_shape",
        "texture", "shape", "prepare_mesh", "texture",
        "export_model", "shape", "prepare_mesh", "texture", "export_model",
    ]  # fmt: skip


class PatientEngine(GatedEngine):
    """Waits for as long as Ray takes its time."""

    def wait(self, stage: str, seed: int) -> None:
        del seed
        assert self.gates[stage].wait(LONG_S)


def test_an_engine_is_started_when_jobs_wait(far: Far) -> None:
    engine = PatientEngine("shape")
    with (
        far.deployed(engine, engines=2, min_engines=1),
        ThreadPoolExecutor() as pool,
    ):
        made = [
            pool.submit(far.client.post, "/generate", json=fields(seed=seed)) for seed in range(2)
        ]
        until_late(lambda: len(far.control.processes) == 2, "a stage in a second engine")
        assert len({process for _, _, process, _ in far.control.processes}) == 2
        engine.open_all()
        assert all(reply.result(LONG_S).is_success for reply in made)


def test_where_ray_is_stopped_nobody_hangs(far: Far) -> None:  # the last one: it takes it away
    import ray

    engine = GatedEngine("shape")
    with far.deployed(engine, engines=2, min_engines=1), ThreadPoolExecutor() as pool:
        waiting = pool.submit(far.client.post, "/generate", json=fields(seed=1))
        until_late(lambda: far.control.processes, "a stage")
        ray.shutdown()  # this process alone
        far.cluster.shutdown()
        with pytest.raises(httpx.HTTPError):
            waiting.result(LONG_S)
        with pytest.raises(httpx.ConnectError):
            far.client.get("/healthcheck")


def _machines() -> list[str]:
    import ray

    return [node["NodeID"] for node in ray.nodes() if node["Resources"].get("engine")]


def _health(far: Far) -> dict[str, Any]:
    return far.client.get("/healthcheck").json()


def _answers(far: Far, path: str) -> bool:
    try:
        return far.client.get(f"/{path}", timeout=5).is_success
    except httpx.HTTPError:
        return False


def _processes(deployment: str) -> list[int]:
    """Of the replicas of that deployment."""
    listed = subprocess.run(
        ["ps", "-eo", "pid,args"], check=True, capture_output=True, text=True
    ).stdout
    mark = f"ServeReplica:trellis2:{deployment}"
    found = [line.split(None, 1) for line in listed.splitlines() if mark in line]
    assert found, f"no process of {deployment}"
    return [int(process) for process, _ in found]
