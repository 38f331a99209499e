"""A deployed server on a Ray cluster, whose engines a test controls."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.engines import GatedEngine
from tests.support.ray_cluster import LONG_S, Control, deploy, make_cutter, steered, until_late
from tests.support.server import settings

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path


class Deployment:
    """A cluster, and the application that is deployed there.

    Args:
        cluster: Ray's cluster.
        control: controls the engines.
        address: address of the control.
        url: URL of Serve's proxy.
        folder: parent of the result folders.

    Attributes:
        cluster: Ray's cluster.
        control: controls the engines.
        url: URL of the server.
        client: a client of the server.
        results: the folder of results, a new one for each deployed application.
        is_stopped: whether the cluster has been stopped.
    """

    def __init__(
        self,
        cluster: Any,
        control: Control,
        address: tuple[str, int] | str,
        url: str,
        folder: Path,
    ) -> None:
        self.cluster, self.control, self.url = cluster, control, url
        self._address, self._folder, self.results = address, folder, folder
        self._deployed: object = None
        self.is_stopped = False
        self.client = httpx.Client(base_url=url, timeout=LONG_S)

    @contextmanager
    def serving(
        self,
        engine: Any,
        *,
        load_errors: Mapping[str, str] | None = None,
        is_ready: bool = True,
        **cluster: Any,
    ) -> Generator[None]:
        """Deploy the application; its engines call `engine`.

        Args:
            engine: an engine of this process.
            load_errors: why no engine can be loaded, by machine.
            is_ready: whether to wait until the application serves.
            cluster: fields of `ClusterSettings`; by default two engines and two ingresses.
        """
        cluster = cluster or {"engines": 2, "ingresses": 2}
        self.control.engine = engine
        self.control.processes.clear()
        self.control.load_errors = dict(load_errors or {})
        if (load_errors, cluster) == self._deployed:  # deploying takes longer than most tests
            until_late(lambda: self.answers("jobs"), "the server answers")
            for job in self.client.get("/jobs").json()["jobs"]:
                self.client.delete(f"/jobs/{job['uid']}")
        else:
            self._delete()
            self._deployed = (load_errors, cluster)
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

    def _delete(self) -> None:
        from ray import serve

        if self._deployed is not None:
            self._deployed = None
            serve.delete("trellis2")

    def stop(self) -> None:
        """Stop the cluster."""
        import ray

        self.is_stopped = True
        ray.shutdown()  # disconnects this process
        self.cluster.shutdown()

    # ---- state ---------------------------------------------------------------------------

    def answers(self, path: str) -> bool:
        """Return whether a request of that path succeeds."""
        try:
            return self.client.get(f"/{path}", timeout=5).is_success
        except httpx.HTTPError:
            return False

    def health(self) -> dict[str, Any]:
        return self.client.get("/healthcheck").json()


def machines() -> list[str]:
    """Return Ray's ids of the machines with engines."""
    import ray

    return [node["NodeID"] for node in ray.nodes() if node["Resources"].get("engine")]


def processes(deployment: str) -> list[int]:
    """Return the process ids of a deployment's replicas, in the cluster of this process only."""
    from ray._private.state import actors

    mark = f"SERVE_REPLICA::trellis2#{deployment}#"
    alive = actors(actor_state_name="ALIVE").values()
    found = [actor["Pid"] for actor in alive if (actor["Name"] or "").startswith(mark)]
    assert found, f"no process of {deployment}"
    return found
