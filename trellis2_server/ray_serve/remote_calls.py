"""`RemoteCalls`: runs steps in other processes.

A step whose process or machine is lost is repeated once, by another process.

Does not know: jobs, what a step does, what its result means.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trellis2_server.errors import EngineBrokenError, EngineError, ServerError
from trellis2_server.ray_serve import tasks
from trellis2_server.ray_serve.stream import read_stream
from trellis2_server.ray_serve.task_machine import TaskMachine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trellis2_server.inputs.images import Cutout, Pictures
    from trellis2_server.ray_serve.stream import Outcome
    from trellis2_server.reports import Report
    from trellis2_server.request_fields import RemoveBackground

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: The process of a step has ended.
PROCESS_LOST: Final = (RayActorError, WorkerCrashedError, NodeDiedError)


class RemoteOutcome(NamedTuple):
    """Outcome of a step in another process.

    Attributes:
        value: see `stream.Outcome`.
        large: references to the large results.
    """

    value: Any
    large: list[Any]


class RemoteCalls:
    """Calls engines, cutters and tasks.

    Calls raise `ServerError`, `StepCancelled` if `report` does, or an exception of Ray's:
    `ObjectLostError` if an argument was lost with its machine.

    Args:
        engines: handle of the engines' deployment.
        cutters: handle of the cutters' deployment.
        task_cpus: CPUs reserved for a task.
    """

    def __init__(self, engines: Any, cutters: Any, task_cpus: float) -> None:
        # By reference, as Ray tasks: large results stay on the engine's machine.
        self._engines = engines.options(stream=True, _by_reference=True)
        self._cutters = cutters
        self._task_cpus = task_cpus

    async def on_engine(self, method: str, *args: Any, report: Report) -> RemoteOutcome:
        """Call a method of `EngineReplica`, on the first engine that is free."""

        async def call() -> RemoteOutcome:
            response = getattr(self._engines, method).remote(*args)
            try:
                items = response._to_object_ref_gen()  # noqa: SLF001 - Ray's developer API
                return RemoteOutcome(*await read_stream(items, report))
            except EngineBrokenError as error:  # of that engine only: Serve replaces it
                raise EngineError(str(error)) from error
            except BaseException:
                response.cancel()
                raise

        return await retry_once(call)

    async def on_cutter(self, picture: Pictures, *, remove_background: RemoveBackground) -> Cutout:
        """Cut a picture out on a cutter."""

        async def call() -> Cutout:
            result = await self._cutters.cut_out.remote(picture, remove_background)
            if isinstance(result, ServerError):
                raise result
            return result

        return await retry_once(call)

    async def as_task(
        self, task: Callable[..., Outcome], *args: Any, node: str | None, report: Report
    ) -> RemoteOutcome:
        """Run a function of `tasks`.

        Args:
            task: the function.
            args: its arguments but for the last one, `report`.
            node: Ray's id of the preferred machine; None: any machine.
            report: called with the progress.
        """
        streaming = ray.remote(num_returns="streaming")(tasks.run_task)
        remote = streaming.options(**self._task_options(node))

        async def call() -> RemoteOutcome:
            machine = await asyncio.to_thread(TaskMachine, node)
            items: Any = remote.remote(task.__name__, task, *args)
            reading = read_stream(_returning(items), report, machine.note)
            try:
                return RemoteOutcome(*await machine.watch(reading))
            except ServerError:
                raise
            except BaseException:
                ray.cancel(items)
                raise

        return await retry_once(call)

    def snapshotter(
        self, serialize: Callable[..., bytes], *args: Any, node: str
    ) -> Callable[[], bytes]:
        """Return a call, for any thread, of a function that runs on that machine if possible."""
        return partial(self._run_blocking, serialize, args, node)

    def _run_blocking(
        self, serialize: Callable[..., bytes], args: tuple[Any, ...], node: str
    ) -> bytes:
        remote = ray.remote(serialize).options(**self._task_options(node))
        machine = TaskMachine(node)
        return machine.get(remote.remote(*args))

    def _task_options(self, node: str | None) -> dict[str, Any]:
        options: dict[str, Any] = {"num_cpus": self._task_cpus, "max_retries": 0}
        if node is not None:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=True)
        return options


async def retry_once(call: Callable[[], Awaitable[T]]) -> T:
    """Return the result of a call, which is repeated once if its process was lost.

    Raises:
        EngineError: the second process was lost, too.
    """
    try:
        return await call()
    except ObjectLostError:
        raise
    except PROCESS_LOST as error:
        logger.warning("A process was lost, its step is repeated: %s", type(error).__name__)
    try:
        return await call()
    except ObjectLostError:
        raise
    except PROCESS_LOST as error:
        raise EngineError("the process that worked on it was lost, twice") from error


async def _returning(value: T) -> T:
    return value
