from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.ray_cluster import controlling, ray_cluster
from tests.support.ray_deployment import Deployment

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@pytest.fixture(scope="session")
def running_deployment(
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[Callable[[], Deployment]]:
    """Returns the cluster of all tests; starts another one if a test has stopped it."""
    pytest.importorskip("ray", reason="needs ray")
    with ExitStack() as stack:
        control, address = stack.enter_context(controlling())
        started: list[Deployment] = []

        def running() -> Deployment:
            if not started or started[-1].is_stopped:
                cluster, url = stack.enter_context(ray_cluster(2))
                folder = tmp_path_factory.mktemp("results")
                started.append(Deployment(cluster, control, address, url, folder))
            return started[-1]

        yield running
        for deployment in started:
            deployment.client.close()


@pytest.fixture
def deployment(running_deployment: Callable[[], Deployment]) -> Deployment:
    return running_deployment()
