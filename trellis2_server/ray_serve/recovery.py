"""`Recovery`: makes results again that were lost with a machine.

It starts from the cut-out, which is part of a shape's reference: the same picture, options and
seed have the same result. An uploaded mesh is read again from its file. A shape that two steps
miss at the same time is made once.

Does not know: jobs, where a step runs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from ray.exceptions import ObjectLostError

from trellis2_server.ray_serve import tasks
from trellis2_server.ray_serve.references import GeometryReference, ShapeReference
from trellis2_server.storage.snapshots import EngineName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trellis2_server.decoders import DecoderLimits
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.parameters import Options
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
        limits: of the processes that read meshes.
    """

    def __init__(
        self, engine: str, calls: RemoteCalls, make_shape: MakeShape, limits: DecoderLimits
    ) -> None:
        self._limits = limits
        self._engine = EngineName(engine)
        self._calls = calls
        self._make_shape = make_shape

    async def retry(
        self,
        call: Callable[[], Awaitable[T]],
        source: ShapeReference | GeometryReference,
        report: Report,
    ) -> T:
        """Return the result of a call; if its input was lost, restore that and call again.

        Args:
            call: reads the input each time it is called.
            source: the input.
            report: called with the progress.
        """
        seen = _mesh_of(source)
        try:
            return await call()
        except ObjectLostError:
            await self.restore(source, seen, report)
            return await call()

    async def restore(
        self, source: ShapeReference | GeometryReference, seen: Any, report: Report
    ) -> None:
        """Replace references by those to new results of the same steps.

        Args:
            source: the shape or the geometry.
            seen: reference to the shape's mesh when it was missed; if the shape has another one by
                now, another step has restored it.
            report: called with the progress.
        """
        logger.warning("An intermediate result was lost with its machine; it is made again")
        shape = source.shape if isinstance(source, GeometryReference) else source
        if shape is not None:
            async with shape.lock:
                if shape.mesh is seen:
                    shape.replace_by(await self._make_shape(shape.cutout, shape.options, report))
        if isinstance(source, ShapeReference):
            return
        if shape is None:
            source.mesh = await self._read_mesh(source, report)
        elif source.mesh is not None:
            source.mesh = await self.prepare_mesh(shape, source.options, report)

    async def _read_mesh(self, geometry: GeometryReference, report: Report) -> Any:
        outcome = await self._calls.as_task(
            tasks.read_mesh,
            self._engine, geometry.content, geometry.options, self._limits,
            node=None, report=report,
        )  # fmt: skip
        mesh, _ = outcome.large
        return mesh

    async def prepare_mesh(self, shape: ShapeReference, options: Options, report: Report) -> Any:
        """Return a reference to the shape's mesh, cleaned and decimated."""
        outcome = await self._calls.as_task(
            tasks.prepare_mesh,
            shape.mesh, shape.resolution, options,
            node=shape.node, report=report,
        )  # fmt: skip
        (mesh,) = outcome.large
        return mesh


def _mesh_of(source: ShapeReference | GeometryReference) -> Any:
    shape = source.shape if isinstance(source, GeometryReference) else source
    return shape and shape.mesh
