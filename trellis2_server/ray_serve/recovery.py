"""`Recovery`: makes results again that were lost with a machine.

It starts from the cut-out, which is part of a shape's reference: the same picture, options and
seed have the same result. An uploaded mesh is read again from its file.

Does not know: jobs, where a step runs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from ray.exceptions import ObjectLostError

from trellis2_server.ray_serve import tasks
from trellis2_server.storage.snapshots import EngineName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.parameters import Options
    from trellis2_server.ray_serve.references import GeometryReference, ShapeReference
    from trellis2_server.ray_serve.remote_calls import RemoteCalls
    from trellis2_server.reports import Report

    MakeShape = Callable[[Cutout, Options, Report], Awaitable[ShapeReference]]

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Recovery:
    """Repeats steps whose results were lost.

    Args:
        engine: name of the engine.
        calls: runs the tasks.
        make_shape: does the step `shape`.
    """

    def __init__(self, engine: str, calls: RemoteCalls, make_shape: MakeShape) -> None:
        self._engine = EngineName(engine)
        self._calls = calls
        self._make_shape = make_shape

    async def retry(
        self, call: Callable[[], Awaitable[T]], geometry: GeometryReference, report: Report
    ) -> T:
        """Return the result of a call; if its input was lost, restore that and call again.

        Args:
            call: reads the geometry each time it is called.
            geometry: the input.
            report: called with the progress.
        """
        try:
            return await call()
        except ObjectLostError:
            await self.restore(geometry, report)
            return await call()

    async def restore(self, geometry: GeometryReference, report: Report) -> None:
        """Replace the references of a geometry by new results of the same steps."""
        logger.warning("An intermediate result was lost with its machine; it is made again")
        if geometry.shape is None:
            geometry.mesh = await self._read_mesh(geometry, report)
            return
        geometry.shape = shape = await self._make_shape(
            geometry.shape.cutout, geometry.shape.options, report
        )
        if geometry.mesh is not None:
            geometry.mesh = await self._prepare_mesh(shape, geometry.options, report)

    async def _read_mesh(self, geometry: GeometryReference, report: Report) -> Any:
        outcome = await self._calls.as_task(
            tasks.read_mesh,
            self._engine, geometry.content, geometry.options,
            node=None, report=report,
        )  # fmt: skip
        mesh, _ = outcome.large
        return mesh

    async def _prepare_mesh(self, shape: ShapeReference, options: Options, report: Report) -> Any:
        outcome = await self._calls.as_task(
            tasks.prepare_mesh,
            shape.mesh, shape.resolution, options,
            node=shape.node, report=report,
        )  # fmt: skip
        (mesh,) = outcome.large
        return mesh
