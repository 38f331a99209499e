"""A Ray cluster on the machines of a `Network`, whose links a test cuts.

The engines are those of the test's process, as in `tests/support/ray_cluster.py`. They call it
through a Unix socket, which no cut reaches.

Does not know: what a test expects.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.engines import GatedEngine
from tests.support.network import Network
from tests.support.ray_cluster import LONG_S, controlling, until_late

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from tests.support.network import Machine

ROOT = Path(__file__).parents[2]
#: Name of the Unix socket at which engines find the test.
CONTROL = "control"
GCS_PORT = 6379
HTTP_PORT = 8082
_STORE_BYTES = 150_000_000
_START_ATTEMPTS = 4
#: Environment of all processes of the cluster.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "PYTHONWARNINGS": "ignore",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
    # As docs/scale.md says for several ingresses.
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": "2147483647",
    "RAY_USAGE_STATS_ENABLED": "0",
}
#: Ray's limits for tests: a machine is given up after 20 s instead of a minute.
SHORT_LIMITS = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
}


class PatientEngine(GatedEngine):
    """Waits for its gates longer than Ray takes to give a machine up."""

    def wait(self, stage: str, seed: int) -> None:
        for gate in (self.gates[stage], self._held.get((stage, seed))):
            assert gate is None or gate.wait(10 * LONG_S), f"the gate of {stage} was not opened"


class CutCluster:
    """A head without engines, machines with one engine each, and a machine with clients.

    Args:
        machines: names of the machines, and the resources of each besides its engine.
        spare: names of machines that join later.
        limits: environment variables with Ray's limits; empty: Ray's defaults.
        head_disk: size of a disk for Ray's files on the head, as `mount` reads it; None: that of
            the host.

    Attributes:
        network: the machines `head`, `client` and the named ones.
        control: controls the engines.
        results: the folder of the server's results, which all machines share.
        ray_folder: the folder of Ray's files, another one on each machine.
    """

    def __init__(
        self,
        machines: Mapping[str, Mapping[str, float]],
        spare: tuple[str, ...] = (),
        limits: Mapping[str, str] | None = None,
        head_disk: str | None = None,
    ) -> None:
        self._stack = ExitStack()
        self._environment = {**_ENVIRONMENT, **(limits or {})}
        self._clients: list[httpx.Client] = []
        try:
            # Ray's sockets lie inside, and their paths must be short.
            folder = tempfile.mkdtemp(prefix="cut", dir="/tmp")
            self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
            self._folder = Path(folder)
            self.results, self.ray_folder = self._folder / "results", self._folder / "tmp"
            self.control, _ = self._stack.enter_context(controlling(str(self._folder / CONTROL)))
            self._processes: list[subprocess.Popen[str]] = []
            self._stack.callback(self._close_pipes)  # when the machines have ended
            names = ("head", *machines, *spare, "client")
            self.network = self._stack.enter_context(Network(*names))
            for machine in self.network.machines.values():
                self._give_folder(machine)
            if head_disk is not None:
                options = ["-t", "tmpfs", "-o", f"size={head_disk}", "tmp", str(self.ray_folder)]
                self.network["head"].run(["mount", *options])
            self._head = self._start_head()
            with ThreadPoolExecutor() as pool:
                starting = [pool.submit(self.join, name, **more) for name, more in machines.items()]
                for machine in starting:
                    machine.result()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the cluster and its machines."""
        for client in self._clients:
            client.close()
        self._stack.close()

    def _close_pipes(self) -> None:
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
            process.wait(LONG_S)

    def __getitem__(self, name: str) -> Machine:
        return self.network[name]

    def _give_folder(self, machine: Machine) -> None:
        """Give the machine a folder of its own, at the same path on all machines."""
        own = self._folder / machine.name
        for folder in (own, self.ray_folder):
            folder.mkdir(exist_ok=True)
        machine.run(["mount", "--bind", str(own), str(self.ray_folder)])

    # ---- Ray -----------------------------------------------------------------------------

    def _start(
        self, name: str, command: list[str], *, has_pipes: bool = False
    ) -> subprocess.Popen[str]:
        environment = {"RAY_TMPDIR": str(self.ray_folder), **self._environment}
        with (self._folder / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                self.network[name].command(command),
                stdin=subprocess.PIPE if has_pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if has_pipes else log,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, **environment},
            )

    def _start_head(self) -> subprocess.Popen[str]:
        module, folder = "tests.support.cut_head", str(self._folder)
        command = [sys.executable, "-m", module, folder, self.network["head"].address]
        head = self._start("head", command, has_pipes=True)
        self._processes.append(head)
        assert head.stdout is not None
        assert head.stdout.readline(), (self._folder / "head.log").read_text()
        return head

    def join(self, name: str, **resources: float) -> None:
        """Start Ray on a machine with one engine.

        Ray gives up after 30 s, which may be too short on a busy host.
        """
        for _ in range(_START_ATTEMPTS):
            if self._start_ray(name, resources).wait(LONG_S) == 0:
                return
            self.network[name].kill_all()
        raise RuntimeError((self._folder / f"{name}.log").read_text())

    def _start_ray(self, name: str, resources: Mapping[str, float]) -> subprocess.Popen[str]:
        return self._start(
            name,
            [
                str(Path(sysconfig.get_path("scripts")) / "ray"),
                "start",
                f"--address={self.network['head'].address}:{GCS_PORT}",
                f"--node-ip-address={self.network[name].address}",
                "--num-cpus=1",
                f"--object-store-memory={_STORE_BYTES}",
                f"--resources={json.dumps({'engine': 1, **resources})}",
            ],
        )

    def _ask_head(self, command: dict[str, Any]) -> Any:
        assert self._head.stdin is not None
        assert self._head.stdout is not None
        self._head.stdin.write(json.dumps(command) + "\n")
        self._head.stdin.flush()
        answer = self._head.stdout.readline()
        assert answer, (self._folder / "head.log").read_text()
        return json.loads(answer)

    def machines_alive(self, name: str) -> list[str]:
        """Return Ray's ids of the machines of that name that it holds to be alive."""
        nodes = self._ask_head({"nodes": True})
        return [node for node, at in nodes.items() if at == self.network[name].address]

    def machine_of(self, node: str) -> str:
        """Return the name of the machine with that id of Ray's."""
        address = self._ask_head({"nodes": True})[node]
        [name] = [each.name for each in self.network.machines.values() if each.address == address]
        return name

    # ---- the server ----------------------------------------------------------------------

    def deploy(
        self,
        *servers: str,
        settings: Mapping[str, Any] | None = None,
        **cluster: Any,
    ) -> None:
        """Deploy the server, and wait until it serves.

        Args:
            servers: machines with an ingress besides the head, to wait for.
            settings: sections of `Settings`; by default results are stored.
            cluster: fields of `ClusterSettings`.
        """
        stored = {"worker": {"result_dir": str(self.results)}}
        self._ask_head(
            {
                "deploy": cluster,
                "settings": stored if settings is None else settings,
                "url": self.url("head"),
            }
        )
        for name in servers:
            client = self.client(name)
            until_late(lambda client=client: answers(client), f"an ingress on {name}")

    def url(self, name: str) -> str:
        """Return the URL of the server at a machine."""
        return f"http://{self.network[name].address}:{HTTP_PORT}"

    def client(self, server: str = "head", timeout_s: float = LONG_S) -> httpx.Client:
        """Return a client on the machine `client`, of the proxy on another machine."""
        client = self.network["client"].client(self.url(server), timeout_s)
        self._clients.append(client)
        return client

    def steer(self, engine: GatedEngine) -> None:
        """Let all engines call this one."""
        self.control.engine = engine
        self.control.processes.clear()

    def wait_for_stages(self, number: int) -> None:
        """Wait until that many stages have started."""
        until_late(lambda: len(self.control.processes) >= number, f"{number} stages")


def answers(client: httpx.Client, path: str = "/healthcheck", timeout_s: float = 5.0) -> bool:
    """Return whether a request of that path succeeds."""
    try:
        return client.get(path, timeout=timeout_s).is_success
    except httpx.HTTPError:
        return False
