"""Names of the deployments, and the options that all of them have.

Does not know: what a deployment does.
"""

from __future__ import annotations

from typing import Any, Final

from ray import serve

INGRESSES: Final = "ingresses"
#: The deployment of the jobs process.
JOBS: Final = "jobs"
ENGINES: Final = "engines"
CUTTERS: Final = "cutters"

#: Interval at which a replica that shuts down checks whether its requests have ended, seconds.
SHUTDOWN_POLL_INTERVAL_S: Final = 0.5


def make_deployment(replica: Any, name: str, **options: Any) -> Any:
    """Return a Serve deployment.

    Args:
        replica: the class of its replicas.
        name: one of the names above.
        options: options of `serve.deployment`.
    """
    deployment: Any = serve.deployment(replica)
    return deployment.options(
        name=name,
        # The routes log every request already, and the jobs process is called all the time.
        logging_config={"enable_access_log": False},
        graceful_shutdown_wait_loop_s=SHUTDOWN_POLL_INTERVAL_S,
        **options,
    )
