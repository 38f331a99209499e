"""A Ray cluster of several machines on this one, and engines there that a test steers from here.

Everything stays on the loopback interface. What happens here while the API's tests run on Ray
(`TRELLIS2_SERVER_TESTS_ON=ray`): `tests/ray_server.py`.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.engines import GatedEngine
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.inputs.images import Cutter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from trellis2_server.pipeline import Report
    from trellis2_server.settings import Settings

ROOT = Path(__file__).parents[2]
# Ray reads these as it is imported. On Windows and macOS it is bound to the loopback interface;
# here it is told to be.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
#: Of everything that the processes of a cluster get from here.
_ENVIRONMENT = {
    "RAY_DEDUP_LOGS": "0",
    "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",
    "PYTHONPATH": str(ROOT),
    "PYTHONWARNINGS": "ignore",
}
#: Longer than anything here takes, on a machine with other things to do.
LONG_S = 120.0
_AUTHORITY = b"nobody else listens on this loopback port"
_STORE_BYTES = 150_000_000
#: An engine's, too large to travel along with a message of Ray's.
_STATE = np.zeros(1_000_000, np.uint8)


@contextmanager
def ray_cluster(machines: int, **node: Any) -> Generator[tuple[Any, str]]:
    """A cluster of a head, which runs no engine, and so many machines with the resource `engine`.

    This process is connected to it. The address is where Serve's proxy listens.
    """
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    common = {
        "node_ip_address": "127.0.0.1",
        "object_store_memory": _STORE_BYTES,
        "num_cpus": 8,
        **node,
    }
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **common})
    try:
        for _ in range(machines):
            add_machine(cluster, **common)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        port = _free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port}, proxy_location="HeadOnly")
        yield cluster, f"http://127.0.0.1:{port}"
    finally:
        ray.shutdown()
        cluster.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def add_machine(cluster: Any, **node: Any) -> Any:
    """Another machine of it, with room for two engines."""
    return cluster.add_node(
        **{
            "node_ip_address": "127.0.0.1",
            "object_store_memory": _STORE_BYTES,
            "num_cpus": 8,
            "resources": {"engine": 2},
            **node,
        }
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ---- engines -----------------------------------------------------------------------------


class Control:
    """What engines elsewhere ask of the one here, which the test steers.

    Attributes:
        engine: the one here.
        processes: of the stages that have begun, in order: stage, seed, process id, machine.
    """

    def __init__(self) -> None:
        self.engine: Any = GatedEngine()
        self.processes: list[tuple[str, int, int, str]] = []
        self.why_not: dict[str, str] = {}

    def is_preview(self) -> bool:
        """Whether it is one, and no gated engine."""
        return isinstance(self.engine, PreviewEngine)

    def enter(self, stage: str, seed: int, process: int, node: str) -> None:
        """A stage begins."""
        self.processes.append((stage, seed, process, node))
        self.engine.enter(stage, seed)

    def wait(self, stage: str, seed: int) -> None:
        """It goes on from here when its gates are open."""
        self.engine.wait(stage, seed)

    def failure(self, stage: str) -> BaseException | None:
        """What it raises."""
        return self.engine.failures.pop(stage, None)

    def returned(self, stage: str) -> tuple[Any, ...]:
        """What it returns instead of what it should, where there is such a thing."""
        return (self.engine.returns.pop(stage),) if stage in self.engine.returns else ()

    def load_error(self, node: str) -> str | None:
        """Why no engine can be loaded on that machine."""
        return self.why_not.get(node)


class _Manager(BaseManager):
    pass


_CONTROL = Control()
_Manager.register("control", callable=lambda: _CONTROL)


@contextmanager
def controlling() -> Generator[tuple[Control, tuple[str, int]]]:
    """The control, and the address where engines elsewhere find it."""
    manager = _Manager(address=("127.0.0.1", 0), authkey=_AUTHORITY)
    server = manager.get_server()
    threading.Thread(target=_serve, args=(server,), name="control", daemon=True).start()
    yield _CONTROL, server.address


def _serve(server: Any) -> None:
    try:
        server.serve_forever()
    except SystemExit:
        return


class SteeredEngine(GatedEngine):
    """An engine in another process: a gated one, or the preview, as the test has it."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__()
        self._address = address
        self._preview = PreviewEngine()
        self._threads = threading.local()

    @property
    def _control(self) -> Any:
        """A connection of this thread's."""
        if not hasattr(self._threads, "control"):
            manager = _Manager(address=self._address, authkey=_AUTHORITY)
            manager.connect()
            self._threads.control = manager.control()
        return self._threads.control

    def load(self, report: Report) -> None:
        import ray

        from trellis2_server.errors import EngineError

        error = self._control.load_error(ray.get_runtime_context().get_node_id())
        if error is not None:
            raise EngineError(error)
        self._preview.load(report)

    def unload(self) -> None:
        return

    def _pass(self, stage: str, seed: int, report: Report) -> None:
        import ray

        node = ray.get_runtime_context().get_node_id()
        self._control.enter(stage, seed, os.getpid(), node)
        report(stage, 0, 2)
        self._control.wait(stage, seed)
        report(stage, 1, 2)
        failure = self._control.failure(stage)
        if failure is not None:
            raise failure
        for instead in self._control.returned(stage):
            self.returns[stage] = instead

    def shape(self, *given: Any) -> Any:
        shape = self._one.shape(*given)
        return shape if self._control.is_preview() else replace(shape, state=_STATE)

    def texture(self, *given: Any) -> Any:
        return self._one.texture(*given)

    def texture_mesh(self, *given: Any) -> Any:
        return self._one.texture_mesh(*given)

    @property
    def _one(self) -> Any:
        return self._preview if self._control.is_preview() else super()


def steered(address: tuple[str, int]) -> Callable[[Settings], SteeredEngine]:
    """Gives such engines."""

    def choose(settings: Settings) -> SteeredEngine:
        del settings
        return SteeredEngine(address)

    return choose


def make_cutter(engine: Any, configured: Settings) -> Cutter:
    """One that leaves pictures as they are."""
    del engine, configured
    return Cutter(background="none")


def deploy(application: Any, url: str, *, is_ready: bool = True) -> None:
    """Deploy it; wait until it serves, or until it answers at all."""
    import httpx
    from ray import serve

    target = serve.RunTarget(application, name="trellis2", route_prefix="/")
    # Not until every engine runs: one that cannot be loaded never does.
    serve.run_many([target], wait_for_applications_running=False)

    def answers() -> bool:
        try:
            reply = httpx.get(f"{url}/healthcheck", timeout=10)
        except httpx.HTTPError:
            return False
        return reply.is_success or (not is_ready and "engine" in reply.text)

    until_late(answers, "ready")


def until_late(is_so: Callable[[], bool], what: str) -> None:
    """As `until`, for what Ray takes its time for."""
    pause, end = threading.Event(), time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < end, f"never: {what}"
        pause.wait(0.2)
