"""Measure network traffic of a job between machines on Ray Serve, and throughput of an ingress.

    python bench/ray_bytes.py [--json FILE]

A cluster is simulated on this machine: a head (proxy, ingress, job service, cutter) and two
machines with one engine each. The results of the engines' steps have the size of TRELLIS.2's
results at a resolution of 1024: a mesh of about 2.5 million faces, 28 MB of state, and a field of
about 6 million voxels. The exports are real.

- Traffic: bytes that the loopback interface carried from a request to the end of its job and of
  storing its snapshots, minus the traffic of an idle cluster in the same time; for jobs whose
  texture step ran on the machine of the shape step and on the other one; with and without
  `worker.max_kept_bytes`. Data that processes of one machine share in its object store does not
  count, as between real machines. Data for the client counts twice: from the ingress to the
  proxy, and from there to the client.
- Store: largest use of the machines' object stores.
- Ingress: replies per second of `/healthcheck`, `/status` and the untextured file, requested
  repeatedly over persistent connections by another process on the same CPUs; for comparison,
  replies of the server without Ray.

Nothing else may use the loopback interface at the same time. Linux only. Requires the packages
of the tests on Ray, and scikit-image.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import numpy as np

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.ray_scale import PATIENCE_S, WaitingEngine, running_engines  # noqa: E402 - after the path is set
from bench.record import Record, add_option  # noqa: E402
from bench.server import Server  # noqa: E402
from tests.support.ray_cluster import deploy, ray_cluster  # noqa: E402
from tests.support.server import picture  # noqa: E402
from trellis2_server.inputs.images import Cutter  # noqa: E402
from trellis2_server.mesh import Shape, VoxelField  # noqa: E402
from trellis2_server.settings import Settings  # noqa: E402

if TYPE_CHECKING:
    from typing_extensions import Self

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.mesh import Mesh
    from trellis2_server.parameters import Options
    from trellis2_server.reports import Report

STATE_BYTES: Final = 28_000_000
RESOLUTION: Final = 1024
STEPS: Final = ("shape", "texture")
#: Size of each object store.
STORE_BYTES: Final = 3_000_000_000
#: Duration of measuring the idle traffic, and the replies of each route, seconds.
MEASURE_S: Final = 5.0
#: Requests a path repeatedly. Arguments: port, path, connections, seconds. Prints the number of
#: replies, their bytes and the duration in seconds.
_REQUESTS: Final = """
import http.client, json, sys, threading, time
port, path = int(sys.argv[1]), sys.argv[2]
connections, seconds = int(sys.argv[3]), float(sys.argv[4])
end, sizes = time.monotonic() + seconds, []
def request():
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while time.monotonic() < end:
        connection.request("GET", path)
        reply = connection.getresponse()
        content = reply.read()
        assert reply.status == 200, reply.status
        sizes.append(len(content))
threads = [threading.Thread(target=request) for _ in range(connections)]
begin = time.monotonic()
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps([len(sizes), sum(sizes), time.monotonic() - begin]))
"""


def torus(faces: int) -> Mesh:
    """Return a bumpy torus with about this number of faces, in the model's frame."""
    from trellis2_server.mesh import Mesh

    n = round((faces / 2) ** 0.5)
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    around, along = np.meshgrid(angle, angle, indexing="ij")
    ring = 0.31 + 0.13 * np.cos(around) + 0.004 * np.sin(40 * along) * np.sin(30 * around)
    positions = np.stack([ring * np.cos(along), ring * np.sin(along), 0.13 * np.sin(around)], -1)
    a = np.arange(n * n).reshape(n, n)
    b, c, d = np.roll(a, -1, 1), np.roll(a, (-1, -1), (0, 1)), np.roll(a, -1, 0)
    quads = np.stack([a, b, c, d], -1).reshape(-1, 4)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return Mesh(positions.reshape(-1, 3).astype(np.float32), triangles.astype(np.int32))


class LargeEngine(WaitingEngine):
    """Engine with results as large as TRELLIS.2's at a resolution of 1024.

    Args:
        faces: number of faces of its mesh.
        folder: folder in which the machine of each step is recorded.
    """

    def __init__(self, faces: int, folder: str) -> None:
        super().__init__((1.0, 0.7), folder)
        self._faces = faces

    def load(self, report: Report) -> None:
        from bench.export_shapes import voxels

        self._mesh = torus(self._faces)
        self._field = voxels(self._mesh, RESOLUTION, alpha=False)
        noise = np.random.default_rng(0).normal(0, 0.01, self._field.attributes.shape)
        self._field.attributes[:] += noise.astype(np.float32)
        size = self._field.coords.nbytes + self._field.attributes.nbytes
        (Path(self._folder) / "field").write_text(str(size), "ascii")
        report("load", 1, 1)

    def _record_machine(self, step: str, seed: int) -> None:
        import ray

        node = ray.get_runtime_context().get_node_id()
        (Path(self._folder) / f"{step}-{seed}").write_text(node, "ascii")

    def shape(self, cutout: Cutout, options: Options, report: Report) -> Shape:
        self._record_machine("shape", options.seed)
        super().shape(cutout, options, report)
        state = np.random.default_rng(options.seed).integers(0, 255, STATE_BYTES, np.uint8)
        return Shape(self._mesh, RESOLUTION, state=state)

    def texture(self, shape: Shape, cutout: Cutout, options: Options, report: Report) -> VoxelField:
        self._record_machine("texture", options.seed)
        super().texture(shape, cutout, options, report)
        return self._field


def deploy_server(url: str, folder: str, faces: int, snapshot_bytes: int) -> None:
    """Deploy the server and wait until both engines run."""
    from trellis2_server.ray_serve import ClusterSettings, build_app

    settings = Settings.model_validate(
        {
            "model": {"engine": "preview"},
            "server": {"log_level": "warning"},
            "worker": {"max_kept_bytes": snapshot_bytes},
        }
    )
    app = build_app(
        settings,
        ClusterSettings(engines=2, num_gpus=0, engine_resources={"engine": 1}),
        choose_engine=lambda _: LargeEngine(faces, folder),
        make_cutter=lambda *_: Cutter(background="none"),
        engine_name="waiting",
    )
    deploy(app, url)
    wait_until(lambda: running_engines(url) == 2, "both engines run")


def wait_until(condition: Any, description: str) -> None:
    pause, end = threading.Event(), time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"timed out waiting until {description}")
        pause.wait(0.2)


def loopback_bytes() -> int:
    """Return the number of bytes that the loopback interface has carried."""
    lines = Path("/proc/net/dev").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split()[1])


class StoreMonitor:
    """Measures the use of all object stores.

    Attributes:
        peak: largest use, bytes.
    """

    def __init__(self) -> None:
        self.peak = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        import ray

        name = "object_store_memory"
        while not self._end.wait(0.2):
            used = ray.cluster_resources()[name] - ray.available_resources().get(name, 0.0)
            self.peak = max(self.peak, used)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def measure_job(url: str, folder: str, seed: int, idle_per_s: float) -> dict[str, Any]:
    begin, before = time.monotonic(), loopback_bytes()
    image = base64.b64encode(picture(seed)).decode()
    body = {"image": image, "seed": seed, "texture": True}
    with StoreMonitor() as monitor:
        reply = httpx.post(f"{url}/generate", json=body, timeout=PATIENCE_S)
        reply.raise_for_status()
        textured_s = time.monotonic() - begin
        _wait_until_quiet(idle_per_s)
    uid = reply.headers["X-Job-Id"]
    moved = loopback_bytes() - before - idle_per_s * (time.monotonic() - begin)
    nodes = [(Path(folder) / f"{step}-{seed}").read_text("ascii") for step in STEPS]
    shape_file = httpx.head(f"{url}/jobs/{uid}/shape.glb", timeout=60)
    return {
        "uid": uid,
        "image_hash": reply.headers["X-Image-Hash"],
        "is_apart": nodes[0] != nodes[1],
        "moved_mb": moved / 1e6,
        "store_mb": monitor.peak / 1e6,
        "shape_glb_mb": int(shape_file.headers["Content-Length"]) / 1e6,
        "textured_glb_mb": len(reply.content) / 1e6,
        "textured_s": textured_s,
    }


def _wait_until_quiet(idle_per_s: float) -> None:
    """Wait until the snapshots of a job have arrived at the job service."""
    pause = threading.Event()
    quiet, end = 0, time.monotonic() + 60
    while quiet < 12 and time.monotonic() < end:
        before = loopback_bytes()
        pause.wait(0.5)
        quiet = quiet + 1 if loopback_bytes() - before < 1e6 + 2 * idle_per_s else 0


def measure_route(url: str, name: str, path: str, connections: int) -> dict[str, Any]:
    port = url.rpartition(":")[2]
    command = [sys.executable, "-c", _REQUESTS, port, path, str(connections), str(MEASURE_S)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
    replies, size, seconds = json.loads(done.stdout)
    return {
        "route": name,
        "connections": connections,
        "replies_per_s": replies / seconds,
        "mb_per_s": size / seconds / 1e6,
    }


def measure(faces: int, jobs: int) -> dict[str, Any]:
    found: dict[str, Any] = {"cpus": os.cpu_count(), "jobs": [], "ingress": []}
    mesh = torus(faces)
    found["mesh_mb"] = (mesh.vertices.nbytes + mesh.faces.nbytes) / 1e6
    machines = {"object_store_memory": STORE_BYTES, "num_cpus": 2}
    with (
        tempfile.TemporaryDirectory() as folder,
        ray_cluster(0, **machines) as (cluster, url),
    ):
        from ray import serve  # after the cluster has set variables that Ray reads at import

        for _ in range(2):
            cluster.add_node(node_ip_address="127.0.0.1", resources={"engine": 1}, **machines)
        seed = 0
        for snapshot_bytes in (0, 2**30):
            deploy_server(url, folder, faces, snapshot_bytes)
            before = loopback_bytes()
            threading.Event().wait(MEASURE_S)
            idle_per_s = (loopback_bytes() - before) / MEASURE_S
            found["idle_mb_per_s"] = idle_per_s / 1e6
            for _ in range(jobs):
                seed += 1
                job = measure_job(url, folder, seed, idle_per_s)
                found["jobs"].append({"has_snapshots": snapshot_bytes > 0, **job})
            if snapshot_bytes:
                last = found["jobs"][-1]
                found["ingress"] = [
                    measure_route(url, "/healthcheck", "/healthcheck", 1),
                    measure_route(url, "/healthcheck", "/healthcheck", 16),
                    measure_route(url, "/status/HASH", f"/status/{last['image_hash']}", 16),
                    measure_route(url, "/jobs/UID", f"/jobs/{last['uid']}", 16),
                    measure_route(url, "/jobs/UID/shape.glb", f"/jobs/{last['uid']}/shape.glb", 1),
                    measure_route(url, "/jobs/UID/shape.glb", f"/jobs/{last['uid']}/shape.glb", 4),
                ]
            serve.delete("trellis2")
        found["field_mb"] = int((Path(folder) / "field").read_text("ascii")) / 1e6
    found["ingress"] += measure_one_process()
    return found


def measure_one_process() -> list[dict[str, Any]]:
    """Measure replies of the server without Ray."""
    server = Server([sys.executable, str(ROOT / "bench" / "load.py"), "--serve", "--stage", "0.2"])
    try:
        server.wait_for_health((200,))
        url = f"http://127.0.0.1:{server.port}"
        return [measure_route(url, "one process: /healthcheck", "/healthcheck", n) for n in (1, 16)]
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    parser.add_argument("--faces", type=int, default=2_500_000, help="faces of the mesh (2500000)")
    parser.add_argument(
        "--jobs", type=int, default=2, help="jobs with, and as many without snapshots (2)"
    )
    arguments = parser.parse_args()
    record = Record(__file__, arguments)
    found = measure(arguments.faces, arguments.jobs)
    record.add("sizes", {k: v for k, v in found.items() if k not in {"jobs", "ingress"}})
    for name in ("jobs", "ingress"):
        for each in found[name]:
            record.add(name, each)
        print("| " + " | ".join(found[name][0]) + " |\n" + "|---" * len(found[name][0]) + "|")
        for each in found[name]:
            cells = (f"{v:.1f}" if isinstance(v, float) else str(v) for v in each.values())
            print("| " + " | ".join(cells) + " |")
        print()
    print({key: value for key, value in found.items() if key not in {"jobs", "ingress"}})


if __name__ == "__main__":
    main()
