"""The story on one screen: a picture's cut-out → shape → GLB → texture → GLB.

    make_shape     the engine's first stage      on the device
    export_shape   → the untextured GLB          on the CPU
    make_texture   the engine's second stage     on the device
    export_model   → the textured GLB            on the CPU

A mesh that the client gave takes the place of the first stage: `read_mesh`.

`make_model` is all four in a row, for whoever has no queue. Every step takes a `report`,
called as `report(stage, step, steps)` between steps; it may raise, which cancels.

What this module does not know: jobs, threads, HTTP, how a stage does its work.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trellis2_server import __version__, export
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.engines.trellis2 import Trellis2Engine, why_not
from trellis2_server.errors import ConfigError
from trellis2_server.inputs.background import BackgroundModel
from trellis2_server.inputs.images import Cutter
from trellis2_server.inputs.meshes import read_scene, to_model_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.inputs.meshes import Scene
    from trellis2_server.mesh import Mesh, Shape, VoxelField
    from trellis2_server.parameters import Options
    from trellis2_server.settings import ExportSettings, Settings

    Report = Callable[[str, int, int], None]

logger = logging.getLogger(__name__)


class Named(Protocol):
    """What a file says it was made by."""

    @property
    def name(self) -> str:
        """Of an engine."""
        ...


class Engine(Protocol):
    """What makes shapes and textures. One call at a time; arrays out, never files."""

    #: What `X-Engine` says: `preview`, `trellis2`.
    name: str

    def load(self, report: Report) -> None:
        """Make ready to serve: weights, compiled code.

        Raises:
            EngineError: says what is missing, and what to do about it.
        """
        ...

    def unload(self) -> None:
        """Give the device's memory back. `load` may follow."""
        ...

    def describe(self) -> Mapping[str, object]:
        """For the operator: device, memory, what stands in for what. Plain JSON values."""
        ...

    def device_memory(self) -> Mapping[str, int]:
        """Bytes of the device: `used`, `peak` since the last call, `total`; empty: no device."""
        ...

    def shape(self, cutout: Cutout, options: Options, report: Report) -> Shape:
        """The object's surface, and what `texture` goes on from.

        Raises:
            EngineError: the stage failed.
        """
        ...

    def texture(self, shape: Shape, cutout: Cutout, options: Options, report: Report) -> VoxelField:
        """The material of that surface.

        Raises:
            EngineError: the stage failed.
        """
        ...

    def texture_mesh(
        self, mesh: Mesh, cutout: Cutout, options: Options, report: Report
    ) -> VoxelField:
        """The material of a given mesh: in the model frame, filling the cube, front to -Y.

        Raises:
            InputError: this engine takes no given meshes.
            EngineError: the stage failed.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """What `export_shape` leaves for `export_model`.

    Attributes:
        shape: the engine's, whole.
        mesh: the same surface, cleaned, remeshed where asked for, and decimated: what both
            GLBs show.
    """

    shape: Shape
    mesh: Mesh


@dataclass(frozen=True, slots=True, eq=False)
class GivenMesh:
    """What `read_mesh` leaves for `export_model`.

    Attributes:
        scene: what the client gave, in its own frame.
        mesh: all of it in the model frame, turned by `geo_rotation`.
    """

    scene: Scene
    mesh: Mesh


def choose_engine(settings: Settings) -> tuple[Engine, tuple[str, ...]]:
    """The engine to serve with, not loaded, and the warnings that go with the choice."""
    if settings.model.engine == "preview":
        for key, value in _upstream_parts(settings).items():
            if value:
                raise ConfigError(f"{key}: upstream is TRELLIS.2's, and model.engine is preview")
        return PreviewEngine(), ()
    if settings.model.engine == "auto":
        missing = why_not(settings.model)
        if missing:
            return PreviewEngine(), (f"serving the embedded preview, not TRELLIS.2: {missing}",)
    made = Trellis2Engine(
        settings.model,
        oom_fallback=settings.worker.oom_fallback,
        exports=settings.export.backend == "upstream",
    )
    return made, ()


def make_cutter(engine: Engine, settings: Settings) -> Cutter:
    """What cuts pictures out; it asks the engine where TRELLIS.2's own remover is configured."""
    background, remover = settings.model.background, None
    if background == "upstream":
        if isinstance(engine, Trellis2Engine):
            remover = engine.remove_background
        else:  # `auto` has taken the preview
            background = "auto"
    return Cutter(
        background=background,
        model=BackgroundModel(settings.model.background_model, offline=settings.model.offline),
        remover=remover,
        max_image_pixels=settings.server.max_image_pixels,
    )


def _upstream_parts(settings: Settings) -> dict[str, bool]:
    return {
        "model.background": settings.model.background == "upstream",
        "export.backend": settings.export.backend == "upstream",
    }


def load(engine: Engine, report: Report, *, remesh: bool = False) -> None:
    """Make the engine and the exporter ready, so that the first job is as fast as the next.

    Args:
        engine: not loaded, or unloaded.
        report: of how far it is.
        remesh: whether the first job is expected to ask for that.
    """
    with export.compiling(remesh=remesh) as compilation:
        engine.load(report)
        report("exporter", 0, 1)
        compilation.finish()
    report("exporter", 1, 1)


def make_shape(engine: Engine, cutout: Cutout, options: Options, report: Report) -> Shape:
    """The engine's first stage."""
    return engine.shape(cutout, options, report)


def prepare_shape(shape: Shape, options: Options, report: Report) -> Geometry:
    """The shape with its mesh cleaned and decimated, wrapped where that is asked for."""
    mesh = export.prepare(
        shape.mesh,
        decimation_target=options.decimation_target,
        remesh_resolution=shape.resolution if options.remesh else None,
        report=report,
    )
    return Geometry(shape, mesh)


def export_shape(
    engine: Named, shape: Shape, options: Options, report: Report
) -> tuple[Geometry, bytes]:
    """The untextured GLB, and what the textured one goes on from."""
    geometry = prepare_shape(shape, options, report)
    mesh = geometry.mesh
    glb = export.untextured_glb(
        mesh,
        extras=_extras(engine, mesh, options, shape),
        generator=_generator(engine),
        compress=options.compress,
    )
    return geometry, glb


def read_mesh(
    engine: Named, content: bytes, options: Options, report: Report
) -> tuple[GivenMesh, bytes]:
    """A client's mesh file, and its GLB without any texture.

    Raises:
        InputError: it is no mesh file, or a broken one.
        TooLargeError: it is over a limit.
    """
    from trellis2_server.export import retexture

    report("read", 0, 2)
    scene = read_scene(content)
    mesh = to_model_frame(scene, options.geo_rotation)
    report("read", 1, 2)
    extras = _extras(engine, mesh, options)
    glb = retexture.untextured_glb(scene, mesh, extras=extras, generator=_generator(engine))
    report("read", 2, 2)
    return GivenMesh(scene, mesh), glb


def make_texture(
    engine: Engine,
    geometry: Geometry | GivenMesh,
    cutout: Cutout,
    options: Options,
    report: Report,
) -> VoxelField:
    """The engine's second stage."""
    if isinstance(geometry, GivenMesh):
        return engine.texture_mesh(geometry.mesh, cutout, options, report)
    return engine.texture(geometry.shape, cutout, options, report)


def export_model(  # noqa: PLR0913, PLR0917 - one argument per thing that is joined here
    engine: Named,
    geometry: Geometry | GivenMesh,
    field: VoxelField,
    options: Options,
    settings: ExportSettings,
    report: Report,
) -> bytes:
    """The textured GLB."""
    if isinstance(geometry, GivenMesh):
        from trellis2_server.export import retexture

        return retexture.textured_glb(
            geometry.scene,
            geometry.mesh,
            field,
            texture_size=options.texture_size,
            alpha_mode=options.alpha_mode,
            texture_format=options.texture_format,
            unwrap=settings.unwrap,
            extras=_extras(engine, geometry.mesh, options),
            generator=_generator(engine),
            report=report,
        )
    if settings.backend == "upstream" and isinstance(engine, Trellis2Engine):
        glb = engine.export(geometry.shape, field, options, report)
        extras = _extras(engine, geometry.mesh, options, geometry.shape) | {"exporter": "upstream"}
        return export.set_asset(glb, extras=extras, generator=_generator(engine))
    return export.textured_glb(
        geometry.mesh,
        field,
        original=geometry.shape.mesh,
        texture_size=options.texture_size,
        alpha_mode=options.alpha_mode,
        texture_format=options.texture_format,
        compress=options.compress,
        unwrap=settings.unwrap,
        extras=_extras(engine, geometry.mesh, options, geometry.shape),
        generator=_generator(engine),
        report=report,
    )


def make_model(
    engine: Engine, cutout: Cutout, options: Options, settings: ExportSettings, report: Report
) -> Iterator[bytes]:
    """Both GLBs, one after the other: the untextured one as soon as it is there."""
    shape = make_shape(engine, cutout, options, report)
    geometry, glb = export_shape(engine, shape, options, report)
    yield glb
    field = make_texture(engine, geometry, cutout, options, report)
    yield export_model(engine, geometry, field, options, settings, report)


def _generator(engine: Named) -> str:
    """`asset.generator`: says outright when a preview made the file."""
    return f"trellis2-server {__version__} ({engine.name} engine)"


def _extras(
    engine: Named, mesh: Mesh, options: Options, shape: Shape | None = None
) -> dict[str, object]:
    """How the file came about; nothing of the texture stage: same seed, same bytes."""
    extras: dict[str, object] = {"engine": engine.name, "seed": options.seed}
    if shape is None:
        return extras | {"geometry": "given", "faces": len(mesh.faces)}
    return extras | {
        "pipeline_type": options.pipeline_type,
        "resolution": shape.resolution,
        "remesh": options.remesh,
        "faces": len(mesh.faces),
        "faces_before_decimation": len(shape.mesh.faces),
    }
