"""The steps from a cut-out to GLBs: shape → GLB, and shape → texture → GLB.

    make_shape     the shape, by the engine          on the device
    export_shape   → the untextured GLB              on the CPU
    make_texture   the material, by the engine       on the device
    export_model   → the textured GLB                on the CPU

`export_shape` and `make_texture` need only the shape and do not change it: they may run side by
side. For an uploaded mesh, `read_mesh` replaces the first two steps. `make_model` runs all four
steps of a picture one after the other. `convert` makes other files and pictures of a GLB.

Each step has a `report`, called as `report(stage, step, steps)`: the stage's name, the steps
done and the steps in all. It may raise, which cancels the step.

Does not know: jobs, threads, HTTP, how a stage works.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from trellis2_server import export
from trellis2_server.decoders import DecoderPool, decoder_limits, pictures
from trellis2_server.decoders.background import background_model
from trellis2_server.decoders.objects import DecoderFinder
from trellis2_server.engines.preview import PREVIEW_DEFAULTS, PreviewEngine
from trellis2_server.engines.trellis2 import Trellis2Engine, reason_unavailable
from trellis2_server.errors import ConfigError
from trellis2_server.export import compile_rest
from trellis2_server.export.gltf import set_asset
from trellis2_server.inputs.images import Cutter
from trellis2_server.parameters import PictureForm
from trellis2_server.request_fields import PRINT_SIZE_MM
from trellis2_server.uploaded_mesh import UploadedMesh, generator, read_mesh, textured_mesh

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.mesh import Mesh, PreparedMesh, Shape, VoxelField
    from trellis2_server.parameters import DerivedForm, Options
    from trellis2_server.reports import Report
    from trellis2_server.settings import ExportSettings, Settings
    from trellis2_server.uploaded_mesh import Named

__all__ = [
    "Engine",
    "Geometry",
    "UploadedMesh",
    "choose_engine",
    "compile_rest",
    "convert",
    "cpu_workers",
    "export_model",
    "export_shape",
    "load",
    "make_cutter",
    "make_decoders",
    "make_model",
    "make_shape",
    "make_texture",
    "prepare_shape",
    "read_mesh",
    "with_engine_defaults",
]

#: A model with a larger share of the surface's faces than this is not decimated enough for a map.
_DECIMATED: Final = 0.9

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """Makes shapes and materials, as arrays. Called by one thread at a time."""

    #: Value of the header `X-Engine`: `preview`, `trellis2`.
    name: str

    def load(self, report: Report) -> None:
        """Load weights and compiled code.

        Raises:
            EngineError: names what is missing and what to do.
        """
        ...

    def unload(self) -> None:
        """Free the device's memory. `load` may follow."""
        ...

    def describe(self) -> Mapping[str, object]:
        """Return device, memory and extensions as JSON values, for logs and `/healthcheck`."""
        ...

    def device_memory(self) -> Mapping[str, int]:
        """Return bytes `used`, `peak` since the last call, and `total`; empty without a device.

        Also `outside`, if memory of other libraries can be counted, and `weights`, the part of
        `used` that an engine moves to the device and away.
        """
        ...

    def shape(self, cutout: Cutout, options: Options, report: Report) -> Shape:
        """Make the object's surface, and the state that `texture` needs.

        Raises:
            EngineError: the stage failed.
        """
        ...

    def texture(self, shape: Shape, cutout: Cutout, options: Options, report: Report) -> VoxelField:
        """Make the material of a shape of this engine.

        The shape must not be changed: it may be exported at the same time.

        Raises:
            EngineError: the stage failed.
        """
        ...

    def texture_mesh(
        self, mesh: Mesh, cutout: Cutout, options: Options, report: Report
    ) -> VoxelField:
        """Make the material of an uploaded mesh.

        The mesh is in the model frame and fills the cube; its front is toward -Y.

        Raises:
            InputError: this engine cannot texture uploaded meshes.
            EngineError: the stage failed.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Result of `export_shape` that `export_model` needs.

    Attributes:
        shape: shape of the engine, before decimation.
        mesh: the surface of both GLBs: cleaned, remeshed if requested, decimated.
    """

    shape: Shape
    mesh: PreparedMesh

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the client, about the surface of both GLBs."""
        return self.mesh.warnings


def choose_engine(settings: Settings) -> tuple[Engine, tuple[str, ...]]:
    """Return the configured engine, not loaded, and warnings for the operator.

    Raises:
        ConfigError: a setting needs TRELLIS.2, and `model.engine` is preview.
    """
    if settings.model.engine == "preview":
        for key, value in _upstream_parts(settings).items():
            if value:
                raise ConfigError(f"{key}: upstream needs TRELLIS.2, but model.engine is preview")
        return PreviewEngine(), ()
    if settings.model.engine == "auto":
        missing = reason_unavailable(settings.model)
        if missing:
            return PreviewEngine(), (f"serving the preview engine, not TRELLIS.2: {missing}",)
    made = Trellis2Engine(
        settings.model,
        oom_fallback=settings.worker.oom_fallback,
        exports=settings.export.backend == "upstream",
        pipeline_type=settings.generation.pipeline_type,
    )
    return made, ()


def with_engine_defaults(settings: Settings, engine: str) -> Settings:
    """Return the settings with what suits an engine in place of defaults: the preview's are lower.

    The configuration that comes with the server spells the defaults out, so their values count.

    Args:
        settings: the operator's.
        engine: its name.
    """
    if engine != PreviewEngine.name:
        return settings
    own, usual = settings.export, type(settings.export)()
    lower = {k: v for k, v in PREVIEW_DEFAULTS.items() if getattr(own, k) == getattr(usual, k)}
    return settings.model_copy(update={"export": own.model_copy(update=lower)})


def cpu_workers(settings: Settings) -> int:
    """Return how many steps may run beside the device at one time, in one process.

    At most one for each job in progress, and for each processor.
    """
    return min(settings.worker.limit_model_concurrency, max(2, os.cpu_count() or 2))


def make_decoders(settings: Settings) -> DecoderPool:
    """Return the processes that decode pictures and meshes; they start when they are needed.

    There are enough of them for every step that may decode something, also at the place that is
    kept for another client, and for one lookup.
    """
    return DecoderPool(decoder_limits(settings), cpu_workers(settings) + 2)


def make_cutter(engine: Engine, settings: Settings, decoders: DecoderPool | None = None) -> Cutter:
    """Return the background remover; with "upstream" it calls the engine.

    Args:
        engine: not loaded.
        settings: the whole configuration.
        decoders: decode the pictures; None: processes of its own.
    """
    decoders = decoders or make_decoders(settings)
    background, remover = settings.model.background, None
    if background == "upstream":
        if isinstance(engine, Trellis2Engine):
            remover = engine.remove_background
        else:  # `model.engine: auto` chose the preview
            background = "auto"
    return Cutter(
        background=background,
        model=background_model(settings.model, decoders),
        remover=remover,
        max_image_pixels=settings.server.max_image_pixels,
        decode=partial(pictures.decode_image, decoders),
        finder=DecoderFinder(decoders),
    )


def _upstream_parts(settings: Settings) -> dict[str, bool]:
    return {
        "model.background": settings.model.background == "upstream",
        "export.backend": settings.export.backend == "upstream",
    }


def load(engine: Engine, report: Report, *, remesh: bool = False) -> None:
    """Load the engine and compile the exporter, so that the first job is not slower.

    Args:
        engine: not loaded.
        report: the engine's stages, and "exporter", whose steps are compiled parts.
        remesh: whether to compile remeshing too.
    """
    with export.compiling(remesh=remesh) as compilation:
        engine.load(report)
        compilation.finish(report)


def make_shape(engine: Engine, cutout: Cutout, options: Options, report: Report) -> Shape:
    """Make the shape of a picture."""
    return engine.shape(cutout, options, report)


def prepare_shape(shape: Shape, options: Options, report: Report) -> Geometry:
    """Clean and decimate the shape's mesh; remesh it, or make it a solid, if requested."""
    mesh = export.prepare(
        shape.mesh,
        decimation_target=options.decimation_target,
        remesh_resolution=shape.resolution if options.remesh else None,
        solid=options.solid,
        min_wall=options.min_wall_mm / PRINT_SIZE_MM,
        report=report,
    )
    if options.normal_map and len(mesh.faces) > _DECIMATED * len(shape.mesh.faces):
        told = (
            f"normal_map: the model has {len(mesh.faces):,} faces and the full surface "
            f"{len(shape.mesh.faces):,}, so the map shows nothing finer; ask for fewer faces"
        )
        mesh = replace(mesh, warnings=(*mesh.warnings, told))
    return Geometry(shape, mesh)


def export_shape(
    engine: Named, shape: Shape, options: Options, report: Report
) -> tuple[Geometry, bytes]:
    """Write the untextured GLB; return it with what `export_model` needs."""
    geometry = prepare_shape(shape, options, report)
    mesh = geometry.mesh
    glb = export.untextured_glb(
        mesh,
        extras=_extras(engine, mesh, options, shape),
        generator=generator(engine),
        compress=options.compress,
        report=report,
    )
    return geometry, glb


def make_texture(
    engine: Engine,
    source: Shape | UploadedMesh,
    cutout: Cutout,
    options: Options,
    report: Report,
) -> VoxelField:
    """Make the material of a shape, or of an uploaded mesh."""
    if isinstance(source, UploadedMesh):
        return engine.texture_mesh(source.mesh, cutout, options, report)
    return engine.texture(source, cutout, options, report)


def export_model(  # noqa: PLR0913, PLR0917 - one argument per input
    engine: Named,
    geometry: Geometry | UploadedMesh,
    field: VoxelField,
    options: Options,
    settings: ExportSettings,
    report: Report,
) -> bytes:
    """Write the textured GLB.

    Args:
        engine: for the metadata; TRELLIS.2's own exporter is called on it.
        geometry: from `export_shape` or `read_mesh`.
        field: from `make_texture`.
        options: of the request.
        settings: of the exporter.
        report: stages of the exporter.

    Raises:
        ExportError: the mesh cannot be unwrapped, baked or written.
    """
    if isinstance(geometry, UploadedMesh):
        return textured_mesh(engine, geometry, field, options, settings, report)
    is_upstream = settings.backend == "upstream" and not options.solid
    if is_upstream and isinstance(engine, Trellis2Engine):
        glb = engine.export(geometry.shape, field, options, report)
        extras = _extras(engine, geometry.mesh, options, geometry.shape) | {"exporter": "upstream"}
        return set_asset(glb, extras=extras, generator=generator(engine))
    return export.textured_glb(
        geometry.mesh,
        field,
        original=geometry.shape.mesh,
        texture_size=options.texture_size,
        alpha_mode=options.alpha_mode,
        texture_format=options.texture_format,
        compress=options.compress,
        unwrap=settings.unwrap,
        occlusion=options.occlusion,
        normal_map=options.normal_map,
        lods=options.lods[1:],
        extras=_extras(engine, geometry.mesh, options, geometry.shape),
        generator=generator(engine),
        report=report,
    )


def make_model(
    engine: Engine, cutout: Cutout, options: Options, settings: ExportSettings, report: Report
) -> Iterator[bytes]:
    """Run all steps; yield the untextured GLB, then the textured one."""
    shape = make_shape(engine, cutout, options, report)
    geometry, glb = export_shape(engine, shape, options, report)
    yield glb
    field = make_texture(engine, shape, cutout, options, report)
    yield export_model(engine, geometry, field, options, settings, report)


def _extras(engine: Named, mesh: PreparedMesh, options: Options, shape: Shape) -> dict[str, object]:
    """Value of `asset.extras`; the same for the same request, so that files are equal."""
    extras: dict[str, object] = {
        "engine": engine.name,
        "seed": options.seed,
        "pipeline_type": options.pipeline_type,
        "resolution": shape.resolution,
        "remesh": options.remesh,
        "faces": len(mesh.faces),
        "faces_before_decimation": len(shape.mesh.faces),
    }
    if options.solid:
        extras["solid"] = True
    return extras | {"warnings": list(mesh.warnings)} if mesh.warnings else extras


def convert(glb: bytes, form: DerivedForm, report: Report) -> bytes:
    """Return a model in another form than the GLB that is stored.

    Raises:
        ExportError: the GLB cannot be read or drawn.
    """
    # Both need numba, with which their loops are compiled.
    if isinstance(form, PictureForm):
        from trellis2_server.export.pictures import draw_picture

        return draw_picture(glb, form, report)
    from trellis2_server.export import formats

    return formats.convert(glb, form, report)
