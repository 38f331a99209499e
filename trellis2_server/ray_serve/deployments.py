"""Names of the deployments, and the options that all of them have.

Does not know: what a deployment does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ray import serve

if TYPE_CHECKING:
    from collections.abc import Mapping

INGRESSES: Final = "ingresses"
#: The deployment of the jobs process.
JOBS: Final = "jobs"
ENGINES: Final = "engines"
CUTTERS: Final = "cutters"

#: Variable with the largest message between two processes of Serve over gRPC, bytes.
MESSAGE_VARIABLE: Final = "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"
#: What gRPC can have. Serve's default is 4 MB, which most models and many pictures are above. What
#: the server takes is limited by its own settings.
MAX_MESSAGE_BYTES: Final = 2**31 - 1

#: Interval at which a replica that shuts down checks whether its requests have ended, seconds.
SHUTDOWN_POLL_INTERVAL_S: Final = 0.5


def make_deployment(
    replica: Any, name: str, *, ray_actor_options: Mapping[str, Any], **options: Any
) -> Any:
    """Return a Serve deployment.

    Args:
        replica: the class of its replicas.
        name: one of the names above.
        ray_actor_options: what a replica needs of its machine.
        options: other options of `serve.deployment`.
    """
    # Not that of the machine: Serve reads it where it is imported.
    environment = {MESSAGE_VARIABLE: str(MAX_MESSAGE_BYTES)}
    deployment: Any = serve.deployment(replica)
    return deployment.options(
        name=name,
        # The routes log every request already, and the jobs process is called all the time.
        logging_config={"enable_access_log": False},
        graceful_shutdown_wait_loop_s=SHUTDOWN_POLL_INTERVAL_S,
        ray_actor_options={**ray_actor_options, "runtime_env": {"env_vars": environment}},
        **options,
    )
