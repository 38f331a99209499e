from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.engines import GatedEngine
from tests.support.ray_cluster import LONG_S, until_late
from tests.support.server import fields

if TYPE_CHECKING:
    from tests.support.ray_deployment import Deployment


def test_no_request_hangs_when_ray_is_stopped(deployment: Deployment) -> None:
    engine = GatedEngine("shape")
    cluster = {"engines": 2, "min_engines": 1}
    with deployment.serving(engine, **cluster), ThreadPoolExecutor() as pool:
        waiting = pool.submit(deployment.client.post, "/generate", json=fields(seed=1))
        until_late(lambda: deployment.control.processes, "a stage")
        deployment.stop()
        with pytest.raises(httpx.HTTPError):
            waiting.result(LONG_S)
        with pytest.raises(httpx.ConnectError):
            deployment.client.get("/healthcheck")
