"""A Ray cluster of several nodes on this machine, with engines that a test controls.

Everything stays on the loopback interface. `tests/support/ray_server.py` uses it to run the API's
tests on Ray (`TRELLIS2_SERVER_TESTS_ON=ray`).
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

    from trellis2_server.reports import Report
    from trellis2_server.settings import Settings

ROOT = Path(__file__).parents[2]
# Ray reads these when it is imported. With the first one it listens on the loopback interface
# only, as it does on Windows and macOS.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
#: Environment of all processes of a cluster.
_ENVIRONMENT = {
    "RAY_DEDUP_LOGS": "0",
    "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",
    "PYTHONPATH": str(ROOT),
    "PYTHONWARNINGS": "ignore",
}
#: Longer than anything takes on a busy machine, seconds.
LONG_S = 300.0
_AUTHORITY = b"a key for the loopback interface"
_STORE_BYTES = 150_000_000
#: State of an engine, too large for Ray to send inside a message.
_STATE = np.zeros(1_000_000, np.uint8)


@contextmanager
def ray_cluster(machines: int, **node: Any) -> Generator[tuple[Any, str]]:
    """Start a cluster with a head, which runs no engine, and machines with the resource `engine`.

    This process is connected to it.

    Args:
        machines: number of machines besides the head.
        node: options of every machine.

    Yields:
        The cluster, and the URL of Serve's proxy.
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
    """Add a machine with room for two engines."""
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
    """What engines in other processes call: it forwards to an engine of the test's process.

    Attributes:
        engine: the engine of the test's process.
        processes: stage, seed, process id and machine of each started stage, in order.
        load_errors: why no engine can be loaded, by machine.
    """

    def __init__(self) -> None:
        self.engine: Any = GatedEngine()
        self.processes: list[tuple[str, int, int, str]] = []
        self.load_errors: dict[str, str] = {}

    def is_preview(self) -> bool:
        """Return whether the engine is the preview, not a gated engine."""
        return isinstance(self.engine, PreviewEngine)

    def enter(self, stage: str, seed: int, process: int, node: str) -> None:
        """Note the start of a stage."""
        self.processes.append((stage, seed, process, node))
        self.engine.enter(stage, seed)

    def wait(self, stage: str, seed: int) -> None:
        """Wait until the gates of a stage are open."""
        self.engine.wait(stage, seed)

    def failure(self, stage: str) -> BaseException | None:
        """Return what the stage is to raise; None: nothing."""
        return self.engine.failures.pop(stage, None)

    def returned(self, stage: str) -> tuple[Any, ...]:
        """Return a tuple of the stage's substitute result; empty: there is none."""
        return (self.engine.returns.pop(stage),) if stage in self.engine.returns else ()

    def load_error(self, node: str) -> str | None:
        """Return why no engine can be loaded on that machine; None: it can."""
        return self.load_errors.get(node)


class _Manager(BaseManager):
    pass


_CONTROL = Control()
_Manager.register("control", callable=lambda: _CONTROL)


@contextmanager
def controlling(
    address: tuple[str, int] | str = ("127.0.0.1", 0),
) -> Generator[tuple[Control, tuple[str, int] | str]]:
    """Yield the control, and the address at which other processes find it.

    Args:
        address: host and port, or the path of a Unix socket to make.
    """
    manager = _Manager(address=address, authkey=_AUTHORITY)
    server = manager.get_server()
    threading.Thread(target=_serve, args=(server,), name="control", daemon=True).start()
    yield _CONTROL, server.address
    if isinstance(address, str):  # now, not at the end of the process, when its folder is gone
        server.listener._listener._unlink()


def _serve(server: Any) -> None:
    try:
        server.serve_forever()
    except SystemExit:
        return


class SteeredEngine(GatedEngine):
    """An engine in another process: a gated engine or the preview, as the test's engine is."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        super().__init__()
        self._address = address
        self._preview = PreviewEngine()
        self._threads = threading.local()

    @property
    def _control(self) -> Any:
        """The connection of this thread."""
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

    def run_stage(self, stage: str, seed: int, report: Report) -> None:
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

    def shape(self, *args: Any) -> Any:
        shape = self._engine.shape(*args)
        return shape if self._control.is_preview() else replace(shape, state=_STATE)

    def texture(self, *args: Any) -> Any:
        return self._engine.texture(*args)

    def texture_mesh(self, *args: Any) -> Any:
        return self._engine.texture_mesh(*args)

    @property
    def _engine(self) -> Any:
        return self._preview if self._control.is_preview() else super()


def steered(address: tuple[str, int] | str) -> Callable[[Settings], SteeredEngine]:
    """Return a function that makes such engines."""

    def choose(settings: Settings) -> SteeredEngine:
        del settings
        return SteeredEngine(address)

    return choose


def make_cutter(engine: Any, configured: Settings) -> Cutter:
    """Return a cutter that does not change pictures."""
    del engine, configured
    return Cutter(background="none")


def deploy(application: Any, url: str, *, is_ready: bool = True) -> None:
    """Deploy an application, and wait until it serves, or until it answers at all."""
    import httpx
    from ray import serve

    target = serve.RunTarget(application, name="trellis2", route_prefix="/")
    # Serve would wait until every engine runs, also for one that cannot be loaded.
    serve.run_many([target], wait_for_applications_running=False)

    def answers() -> bool:
        try:
            reply = httpx.get(f"{url}/healthcheck", timeout=10)
        except httpx.HTTPError:
            return False
        return reply.is_success or (not is_ready and "engine" in reply.text)

    until_late(answers, "ready")


def until_late(is_so: Callable[[], bool], what: str) -> None:
    """Wait like `until`, for changes that take Ray long."""
    pause, end = threading.Event(), time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < end, f"never: {what}"
        pause.wait(0.2)
