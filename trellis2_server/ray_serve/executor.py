"""`ClusterExecutor`: the crew of a cluster. Its engines are the replicas of a Ray Serve deployment.

    cut_out                     a replica of the cutters
    make_shape, make_texture    a replica of the engines, which takes one at a time
    export_shape, export_model  a Ray task, on the machine where its input lies

Whoever dies at a step has it done once more, by another. What was lost along with a machine
is made anew from the cut-out, which the job's task holds: the same picture, options and seed
give the same bytes.

What this module does not know: jobs, HTTP, what a step does.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import ray
from ray import serve
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.serve.exceptions import RayServeException
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trellis2_server.errors import EngineBrokenError, EngineError, ServerError
from trellis2_server.jobs.executor import ExportedShape
from trellis2_server.jobs.threads import describe_error
from trellis2_server.ray_serve import steps
from trellis2_server.ray_serve.steps import FieldParts, GeometryParts, ShapeParts
from trellis2_server.ray_serve.stream import follow
from trellis2_server.storage.snapshots import EngineName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.parameters import Options
    from trellis2_server.pipeline import Report
    from trellis2_server.ray_serve.settings import ClusterSettings
    from trellis2_server.ray_serve.stream import Outcome
    from trellis2_server.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Of the deployments, within their application.
ENGINES: Final = "engines"
CUTTERS: Final = "cutters"
#: Between two looks at how the engines are.
LOOK_INTERVAL_S: Final = 1.0
#: How long the answer to such a look may take.
LOOK_TIMEOUT_S: Final = 10.0

#: What a job goes on from is gone for good.
_LOST: Final = "what the job goes on from was lost along with a machine; send the picture again"
#: Whoever worked on a step is gone.
DIED: Final = (RayActorError, WorkerCrashedError, NodeDiedError)


def _translated(step: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The step, of which Ray's errors come out as ours: theirs hold tracebacks."""

    @functools.wraps(step)
    async def translated(*args: P.args, **named: P.kwargs) -> T:
        try:
            return await step(*args, **named)
        except ObjectLostError as error:
            raise EngineError(_LOST) from error
        except RayTaskError as error:
            logger.exception("A step failed elsewhere")
            reason = describe_error(error.cause or error)
            raise EngineError(f"{step.__name__} failed: {reason}") from error
        except (RayError, RayServeException) as error:
            raise EngineError(f"the cluster failed: {type(error).__name__}") from error

    return translated


class ClusterExecutor:
    """What does the steps of the desk's worker. Its steps belong to the event loop's thread.

    Args:
        settings: the whole configuration.
        cluster: how much of the cluster is used.
        engine: the engine's name.
        engines: handle of their deployment.
        cutters: handle of theirs.
        app: name of the Serve application.

    Attributes:
        name: the engine's.
        lanes: one for each engine that there may be.
        hands: a cut-out and an export for each, so that none waits for the next stage.
        running: how many engines can work now.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it works with
        self,
        settings: Settings,
        cluster: ClusterSettings,
        engine: str,
        engines: Any,
        cutters: Any,
        app: str,
    ) -> None:
        self.name = engine
        self.device_slots = cluster.most_engines
        self.cpu_workers = 4 * self.device_slots
        self.running = 0
        self._is_given_up = False
        self._export = settings.export
        self._uses_engine_to_cut = settings.model.background == "upstream"
        self._uses_engine_to_export = settings.export.backend == "upstream"
        self._export_cpus = cluster.export_cpus
        self._engines = engines.options(stream=True)
        self._cutters = cutters
        self._app = app
        self._states: Mapping[str, int] = {}
        self._failures: dict[str, str] = {}
        self._is_ready = threading.Event()

    # ---- how the engines are -----------------------------------------------------------

    async def look_after(self) -> None:
        """Know how the engines are, from now on."""
        while True:
            try:
                await asyncio.wait_for(self._look(), LOOK_TIMEOUT_S)
            except Exception as error:  # noqa: BLE001 - whatever Ray says, this goes on
                logger.warning("The cluster does not say how it is: %s", describe_error(error))
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _look(self) -> None:
        status = await asyncio.to_thread(serve.status)
        engines = status.applications[self._app].deployments[ENGINES]
        self._states = {str(state).lower(): n for state, n in engines.replica_states.items()}
        self.running = self._states.get("running", 0)
        self._is_given_up = not self.running and engines.status.value == "DEPLOY_FAILED"
        if self.running or self._is_given_up:
            self._is_ready.set()

    def note_engine(self, node: str, error: str | None) -> None:
        """An engine on that machine could not be loaded, or could."""
        if error is None:
            self._failures.pop(node, None)
        else:
            self._failures[node] = error
            logger.error("An engine could not be loaded: %s", error, extra={"node": node})

    @property
    def notes(self) -> list[str]:
        """What the operator should know."""
        return [
            f"the engine on {node} could not be loaded: {error}"
            for node, error in self._failures.items()
        ]

    @property
    def trouble(self) -> str | None:
        """Why no engine can work, and none will; None: some can, or may yet."""
        if not self._is_given_up:
            return None
        return "; ".join(dict.fromkeys(self._failures.values())) or "no engine could be started"

    # ---- as an engine ------------------------------------------------------------------

    def load(self, report: Report) -> None:
        """Wait until one engine can work.

        Raises:
            EngineError: none ever will.
        """
        report("engines", 0, 1)
        while not self._is_ready.wait(LOOK_INTERVAL_S):
            report("engines", 0, 1)
        if self.trouble is not None:
            raise EngineError(self.trouble)
        report("engines", 1, 1)

    def unload(self) -> None:
        """Nothing: how many engines there are is Serve's to decide."""

    def describe(self) -> Mapping[str, object]:
        """How many engines there are, by state."""
        return {"engines": {**self._states, "at_most": self.device_slots}}

    def device_memory(self) -> Mapping[str, int]:
        """Nothing: each engine looks after its own."""
        return {}

    # ---- steps -------------------------------------------------------------------------

    @_translated
    async def cut_out(self, picture: bytes, *, remove_background: bool) -> Cutout:
        """The cut-out, made on a machine that has room."""
        if self._uses_engine_to_cut:
            cutout, _ = await self._on_engine(
                "cut_out", picture, remove_background, report=_say_nothing
            )
            return cutout
        return await _twice(partial(self._cut_out, picture, remove_background=remove_background))

    async def _cut_out(self, picture: bytes, *, remove_background: bool) -> Cutout:
        found = await self._cutters.cut_out.remote(picture, remove_background)
        if isinstance(found, ServerError):
            raise found
        return found

    @_translated
    async def make_shape(self, cutout: Cutout, options: Options, report: Report) -> ShapeParts:
        """The shape, where an engine made it."""
        told, (mesh, state) = await self._on_engine("shape", cutout, options, report=report)
        resolution, warnings, node = told
        return ShapeParts(resolution, warnings, mesh, state, node, cutout, options)

    @_translated
    async def export_shape(
        self, shape: ShapeParts, options: Options, report: Report
    ) -> ExportedShape:
        """The untextured file."""
        geometry = GeometryParts(shape, None, options)

        async def export() -> ExportedShape:
            lost = geometry.shape or shape
            digest, (mesh, glb) = await self._as_task(
                steps.export_shape,
                EngineName(self.name), lost.mesh, lost.resolution, options,
                node=lost.node, report=report,
            )  # fmt: skip
            geometry.mesh = mesh
            return ExportedShape(geometry, await glb, digest)

        return await self._regaining(export, geometry, report)

    @_translated
    async def read_mesh(self, content: bytes, options: Options, report: Report) -> ExportedShape:
        """A client's mesh and its file."""
        given = ray.put(content)
        digest, (mesh, glb) = await self._as_task(
            steps.read_mesh, EngineName(self.name), given, options, node=None, report=report
        )
        return ExportedShape(GeometryParts(None, mesh, options, given), await glb, digest)

    @_translated
    async def make_texture(
        self, geometry: GeometryParts, cutout: Cutout, options: Options, report: Report
    ) -> FieldParts:
        """The material, where an engine made it."""

        async def make() -> FieldParts:
            shape = geometry.shape
            if shape is None:
                what, *parts = "texture_mesh", geometry.mesh
            else:
                # In a list it is a reference, and whoever looks at it fetches it.
                what, *parts = "texture", shape.resolution, [shape.mesh], shape.state
            told, (field,) = await self._on_engine(what, *parts, cutout, options, report=report)
            node, warnings = told
            return FieldParts(field, node, warnings)

        return await self._regaining(make, geometry, report)

    @_translated
    async def export_model(
        self, geometry: GeometryParts, field: FieldParts, options: Options, report: Report
    ) -> bytes:
        """The textured file."""
        cutout = geometry.shape.cutout if geometry.shape else None

        async def export() -> bytes:
            shape = geometry.shape
            original, resolution = (shape.mesh, shape.resolution) if shape else (None, 0)
            if self._uses_engine_to_export and shape is not None:
                _, (glb,) = await self._on_engine(
                    "export_model", [geometry.mesh], resolution, [original], shape.state,
                    field.field, options, report=report,
                )  # fmt: skip
            else:
                _, (glb,) = await self._as_task(
                    steps.export_model,
                    EngineName(self.name), geometry.mesh, original, resolution, field.field,
                    options, self._export,
                    node=field.node, report=report,
                )  # fmt: skip
            return await glb

        try:
            return await export()
        except ObjectLostError:
            if cutout is None:
                raise
            await self._regain(geometry, report)
            field = await self.make_texture(geometry, cutout, options, report)
            return await export()

    def shape_snapshotter(self, geometry: GeometryParts) -> Callable[[], bytes] | None:
        """Packs the mesh where it lies."""
        shape = geometry.shape
        if shape is None:
            return None
        return partial(self._keep, steps.snapshot_shape, shape.node, shape.mesh, shape.resolution)

    def field_snapshotter(self, field: FieldParts) -> Callable[[], bytes]:
        """Packs the field where it lies."""
        return partial(self._keep, steps.snapshot_field, field.node, field.field)

    def _keep(self, keep: Callable[..., bytes], node: str, *parts: Any) -> bytes:
        task = ray.remote(keep).options(**self._task_options(node))
        return ray.get(task.remote(*parts))

    @_translated
    async def export_again(
        self, made_by: str, shape: bytes, field: bytes | None, options: Options, report: Report
    ) -> bytes:
        """A kept model as a file."""
        _, (glb,) = await self._as_task(
            steps.export_snapshot, made_by, ray.put(shape), field and ray.put(field), options,
            self._export, node=None, report=report,
        )  # fmt: skip
        return await glb

    # ---- elsewhere ---------------------------------------------------------------------

    async def _on_engine(self, what: str, *parts: Any, report: Report) -> tuple[Any, list[Any]]:
        """The stream of an engine's method, which the first free engine takes on."""

        async def run() -> tuple[Any, list[Any]]:
            response = getattr(self._engines, what).remote(*parts)
            try:
                return await follow(response._to_object_ref_gen(), report)  # noqa: SLF001 - Ray's developer API
            except EngineBrokenError as error:  # that engine is; Serve starts another
                raise EngineError(str(error)) from error
            except BaseException:
                response.cancel()
                raise

        return await _twice(run)

    async def _as_task(
        self, step: Callable[..., Outcome], *parts: Any, node: str | None, report: Report
    ) -> tuple[Any, list[Any]]:
        """The stream of a task, on that machine where it still is there."""
        streaming = ray.remote(num_returns="streaming")(steps.as_stream)
        task = streaming.options(**self._task_options(node))

        async def run() -> tuple[Any, list[Any]]:
            items: Any = task.remote(step.__name__, step, *parts)
            try:
                return await follow(_given(items), report)
            except ServerError:
                raise
            except BaseException:
                ray.cancel(items)
                raise

        return await _twice(run)

    def _task_options(self, node: str | None) -> dict[str, Any]:
        options: dict[str, Any] = {"num_cpus": self._export_cpus, "max_retries": 0}
        if node is not None:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=True)
        return options

    # ---- what was lost -----------------------------------------------------------------

    async def _regaining(
        self, call: Callable[[], Awaitable[Any]], geometry: GeometryParts, report: Report
    ) -> Any:
        """What the call gives, also where what it goes on from was lost with a machine."""
        try:
            return await call()
        except ObjectLostError:
            await self._regain(geometry, report)
            return await call()

    async def _regain(self, geometry: GeometryParts, report: Report) -> None:
        logger.warning("What a job goes on from was lost with a machine; it is made again")
        shape, prepared = geometry.shape, geometry.mesh is not None
        if shape is not None:
            geometry.shape = shape = await self.make_shape(shape.cutout, shape.options, report)
            if prepared:
                _, (geometry.mesh,) = await self._as_task(
                    steps.prepare_mesh, shape.mesh, shape.resolution, geometry.options,
                    node=shape.node, report=report,
                )  # fmt: skip
        else:
            _, (geometry.mesh, _) = await self._as_task(
                steps.read_mesh, EngineName(self.name), geometry.given, geometry.options,
                node=None, report=report,
            )  # fmt: skip


def _say_nothing(stage: str, step: int, steps: int) -> None:
    del stage, step, steps


async def _given(items: T) -> T:
    return items


async def _twice(call: Callable[[], Awaitable[T]]) -> T:
    """What the call gives; it is made once more where whoever did it died.

    Raises:
        EngineError: that one died too.
    """
    try:
        return await call()
    except ObjectLostError:
        raise
    except DIED as error:
        logger.warning("A step is done again, as a process was lost: %s", type(error).__name__)
    try:
        return await call()
    except ObjectLostError:
        raise
    except DIED as error:
        raise EngineError("the process that worked on it was lost, twice") from error
