"""The process on the head of a `CutCluster` that starts Ray there and deploys the server.

    python -m tests.support.cut_head FOLDER ADDRESS

It reads commands from its standard input, one JSON object a line, and answers each with a line:

    {"deploy": {fields of `ClusterSettings`}, "settings": {sections of `Settings`}, "url": "…"}
    {"nodes": true}     answers with the address of each machine, by Ray's id

Does not know: what is cut.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.support.cut_cluster import CONTROL, GCS_PORT, HTTP_PORT
from tests.support.engines import GatedEngine
from tests.support.ray_cluster import deploy, make_cutter, steered


def start(address: str) -> None:
    """Start the head and Serve; connect this process to them."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    head = {
        "node_ip_address": address,
        "gcs_server_port": GCS_PORT,
        "num_cpus": 0,
        "resources": {"ingress": 1},
        "include_dashboard": False,
        "include_log_monitor": False,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    serve.start(
        http_options={"host": "0.0.0.0", "port": HTTP_PORT},  # noqa: S104 - of that network only
        proxy_location="EveryNode",
    )


def obey(folder: Path, command: dict[str, Any]) -> object:
    """Do what a command says; return the answer."""
    import ray

    if "nodes" in command:
        return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    from ray import serve

    from trellis2_server.ray_serve import ClusterSettings, build_app
    from trellis2_server.settings import Settings

    serve.delete("trellis2")
    application = build_app(
        Settings.model_validate(command["settings"]),
        ClusterSettings(engine_resources={"engine": 1}, num_gpus=0, **command["deploy"]),
        choose_engine=steered(str(folder / CONTROL)),
        make_cutter=make_cutter,
        engine_name=GatedEngine().name,
    )
    deploy(application, command["url"])
    return True


def main() -> None:
    """Start the head, then obey."""
    # What Ray prints is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    folder = Path(sys.argv[1])
    start(sys.argv[2])
    answers.write("\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(obey(folder, json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
