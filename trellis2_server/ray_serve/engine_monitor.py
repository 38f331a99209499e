"""`EngineMonitor`: how many engines run, and why others could not be loaded.

Does not know: jobs, what an engine does.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from ray import serve

from trellis2_server.errors import EngineError
from trellis2_server.jobs.threads import describe_error
from trellis2_server.ray_serve.deployments import ENGINES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.reports import Report

logger = logging.getLogger(__name__)

#: Time between two queries of the deployment's status, seconds.
POLL_INTERVAL_S: Final = 1.0
#: Time limit of such a query, seconds.
POLL_TIMEOUT_S: Final = 10.0


class EngineMonitor:
    """State of the engines' deployment. Belongs to the event loop's thread but for `wait`.

    Args:
        app: name of the Serve application.

    Attributes:
        replicas: number of engines, by state.
    """

    def __init__(self, app: str) -> None:
        self.replicas: Mapping[str, int] = {}
        self._app = app
        self._failures: dict[str, str] = {}
        self._has_failed = False
        self._is_known = threading.Event()

    async def run(self) -> None:
        """Query the status regularly, until cancelled."""
        while True:
            try:
                await asyncio.wait_for(self._poll(), POLL_TIMEOUT_S)
            except Exception as error:  # noqa: BLE001 - the next query may succeed
                logger.warning("The status of the engines is unknown: %s", describe_error(error))
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _poll(self) -> None:
        status = await asyncio.to_thread(serve.status)
        self.update(status.applications[self._app].deployments[ENGINES])

    def update(self, status: Any) -> None:
        """Note a status of the deployment, as in `serve.status()`."""
        self.replicas = {str(state).lower(): n for state, n in status.replica_states.items()}
        is_running = self.replicas.get("running", 0) > 0
        self._has_failed = not is_running and status.status.value == "DEPLOY_FAILED"
        if is_running or self._has_failed:
            self._is_known.set()

    def note_load(self, node: str, error: str | None) -> None:
        """Note that an engine was loaded on a machine, or why it could not be."""
        if error is None:
            self._failures.pop(node, None)
        else:
            self._failures[node] = error
            logger.error("An engine could not be loaded: %s", error, extra={"node": node})

    @property
    def notes(self) -> list[str]:
        """Notes for the operator: the machines whose engine could not be loaded."""
        return [
            f"the engine on {node} could not be loaded: {error}"
            for node, error in self._failures.items()
        ]

    @property
    def error(self) -> str | None:
        """Why Serve has given up starting engines; None: it has not, or some run."""
        if not self._has_failed:
            return None
        return "; ".join(dict.fromkeys(self._failures.values())) or "no engine could be started"

    def wait(self, report: Report) -> None:
        """Block until an engine runs. For any thread.

        Args:
            report: called every `POLL_INTERVAL_S`.

        Raises:
            EngineError: Serve has given up starting engines.
        """
        report("engines", 0, 1)
        while not self._is_known.wait(POLL_INTERVAL_S):
            report("engines", 0, 1)
        if self.error is not None:
            raise EngineError(self.error)
        report("engines", 1, 1)
