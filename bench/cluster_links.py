"""More scenarios of `cluster_cuts.py`: slow and broken links between some, and full disks.

Does not know: how figures are printed.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from bench.cluster_scenarios import PATIENCE_S, Scene, pause, two_machines, wait_until
from tests.support.cut_cluster import CutCluster

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import ThreadPoolExecutor

    Row = dict[str, Any]

#: Delay of each link, seconds, and share of the frames that it loses, each way.
_LINKS = ((0.0, 0.0), (0.025, 0.0), (0.025, 0.01), (0.1, 0.03))
_JOBS = 8
#: Size of the disks that are filled.
_DISK = "64m"


def slow(pool: ThreadPoolExecutor) -> Iterable[Row]:
    """Send jobs while all links are slow and lose frames."""
    with two_machines(pool) as scene:
        names = list(scene.cluster.network.machines)
        for delay_s, loss in _LINKS:
            for name in names:
                scene.cluster.network.set_link(name, delay_s=delay_s, loss=loss)
            scene.restart()
            begin = time.monotonic()
            replies = [scene.job()[1] for _ in range(_JOBS)]
            ended = [reply.result(PATIENCE_S) for reply in replies]
            yield {
                "delay_ms": 1000 * delay_s,
                "loss_percent": 100 * loss,
                "outcomes": sorted({each.outcome for each in ended}),
                "median_s": round(statistics.median(each.seconds for each in ended), 2),
                "all_s": round(max(each.ended for each in ended) - begin, 2),
                "stages": len(scene.cluster.control.processes),
            }


def between(pool: ThreadPoolExecutor) -> Iterable[Row]:
    """Make a texture on a machine that does not reach that of the shape."""
    with two_machines(pool) as scene:
        scene.restart()
        shapes = [scene.engine.hold("shape", seed) for seed in scene.next_seeds(3)]
        seed, reply = scene.job()
        machine = scene.machine_at("shape", seed)
        other_seed, _ = scene.job()
        other = scene.machine_at("shape", other_seed)
        third, _ = scene.job()
        shapes[0].set()  # its machine makes the third shape next
        scene.machine_at("shape", third)
        begin = time.monotonic()
        scene.cluster.network.cut_off(machine, other)
        shapes[1].set()
        found = reply.result(PATIENCE_S)
        yield {
            "outcome": found.outcome,
            "text": found.text,
            "seconds": round(found.ended - begin, 1),
            "stages": [each[:2] for each in scene.cluster.control.processes],
        }
        scene.engine.open_all()


def disk(pool: ThreadPoolExecutor) -> Iterable[Row]:
    """Fill the head's disk: that of the results, then that of Ray's own files."""
    with CutCluster({"m1": {}, "m2": {}}, head_disk=_DISK) as cluster:
        head, results = cluster["head"], str(cluster.results)
        cluster.results.mkdir()
        head.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "results", results])
        cluster.deploy(engines=2)
        scene = Scene(cluster, pool)
        scene.wait_for_engines(2)
        yield from _fill(scene, "results", results)
        yield from _fill(scene, "Ray's files", str(cluster.ray_folder))


def _fill(scene: Scene, what: str, folder: str) -> Iterable[Row]:
    head = scene.cluster["head"]
    scene.restart()
    before = scene.job()[1].result(PATIENCE_S)
    head.run(["sh", "-c", f"dd if=/dev/zero of={folder}/fill bs=64k 2>/dev/null; true"])
    pause(3)
    begin = time.monotonic()
    replies = [scene.job()[1].result(PATIENCE_S) for _ in range(3)]
    health = scene.client.get("/healthcheck")
    yield {
        "what": f"{what} full",
        "jobs": [f"{each.outcome} {each.text}" for each in replies],
        "seconds": round(time.monotonic() - begin, 1),
        "health": [health.status_code, health.json().get("status"), health.json().get("notes")],
        "job_before": scene.client.get(f"/jobs/{before.name}/textured.glb").status_code,
        "new_file": scene.client.get(f"/jobs/{replies[0].name}/textured.glb").status_code,
    }
    notes = len(health.json().get("notes", ()))
    begin = time.monotonic()
    head.run(["rm", f"{folder}/fill"])
    wait_until(
        lambda: notes <= 1 or len(scene.client.get("/healthcheck").json()["notes"]) < notes, "free"
    )
    freed_s = time.monotonic() - begin
    reply = scene.job()[1].result(PATIENCE_S)
    yield {
        "what": f"{what} freed",
        "note_gone_s": round(freed_s, 1),
        "job": reply.outcome,
        "files": [
            scene.client.get(f"/jobs/{each.name}/textured.glb").status_code
            for each in (before, *replies, reply)
        ],
    }
