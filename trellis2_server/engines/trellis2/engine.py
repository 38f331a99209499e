"""`Trellis2Engine`: TRELLIS.2 behind the `Engine` protocol.

Does not know: how a stage is computed (`stages`), what a retry changes (`oom_policy`), which
model is on which device (`placement`), files, jobs, queues.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image

from trellis2_server.engines.trellis2 import loading, oom_policy, unused, upstream_glb, warm_up
from trellis2_server.engines.trellis2 import residency as residencies
from trellis2_server.engines.trellis2.allocator import prefer_expandable_segments
from trellis2_server.engines.trellis2.compilation import compile_models
from trellis2_server.engines.trellis2.device_memory import DeviceMemory
from trellis2_server.engines.trellis2.oom_policy import Attempts, OomPolicy
from trellis2_server.engines.trellis2.pipeline_types import (
    PIPELINE_TYPES,
    mesh_texture_order,
)
from trellis2_server.engines.trellis2.placement import ModelPlacement
from trellis2_server.engines.trellis2.progress import StageProgress
from trellis2_server.engines.trellis2.samplers import SAMPLERS
from trellis2_server.engines.trellis2.stage_runner import StageRunner
from trellis2_server.engines.trellis2.stages import Stages
from trellis2_server.engines.trellis2.upstream import import_upstream
from trellis2_server.errors import EngineError, InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from trellis2_server.engines.portable import Extension
    from trellis2_server.engines.trellis2.compilation import Compilation
    from trellis2_server.engines.trellis2.loaded_model import LoadedModel
    from trellis2_server.engines.trellis2.residency import DeviceResidency
    from trellis2_server.engines.trellis2.state import Trellis2State
    from trellis2_server.engines.trellis2.upstream import Upstream
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.mesh import Mesh, Shape, VoxelField
    from trellis2_server.parameters import Options
    from trellis2_server.reports import Report
    from trellis2_server.settings import ModelSettings, OomFallback

logger = logging.getLogger(__name__)


class Trellis2Engine:
    """TRELLIS.2. One call at a time; no data of a job stays on the device between calls.

    Args:
        settings: the weights, the device, the checkout.
        oom_fallback: what a job that is out of memory may change, see `oom_policy`.
        exports: whether `export` will be called; `load` then checks what it needs.
        pipeline_type: of a request that names none; decides `low_vram` if that is not set.
    """

    name: str = "trellis2"

    def __init__(
        self, settings: ModelSettings, *, oom_fallback: OomFallback = "resolution",
        exports: bool = False, pipeline_type: str = "1024_cascade",
    ) -> None:  # fmt: skip
        self._settings = settings
        self._oom_fallback: OomFallback = oom_fallback
        self._exports = exports
        self._resolution = PIPELINE_TYPES[pipeline_type].resolution
        # `_device` is set by the first import, and kept when the model is unloaded.
        self._device: _Device | None = None
        self._loaded: _Loaded | None = None

    # ---- loading -----------------------------------------------------------------------

    def load(self, report: Report) -> None:
        """Import TRELLIS.2; find, download, check and load the weights.

        Stages: "import", "download" (MiB), "check", "load", "warm up".

        Raises:
            MissingPackageError: names the package and how to install it.
            EngineError: the device, a file or the weights are not usable; says what to do.
            OutOfMemoryError: the weights do not fit on the device, even one model at a time.
        """
        if self._loaded is not None:
            return
        report("import", 0, 1)
        prefer_expandable_segments(self._settings.device)
        upstream = import_upstream(self._settings)
        device = self._use_device(upstream)
        report("import", 1, 1)
        if self._exports:
            with device.memory.as_current_device():
                upstream_glb.check()
        residency = residencies.for_device(upstream.torch, self._settings.device, device.memory)
        target = loading.Target(device.memory, residency, self._resolution)
        with device.memory.as_current_device():
            model = loading.load_model(upstream, self._settings, target, report)
            self.use(model, residency)
        _warm_up(*self._require(), report)
        gc.collect()  # from now on without torch's and transformers' 400,000 objects: 0.25 s
        gc.freeze()
        logger.info("TRELLIS.2 loaded", extra=self.describe())

    def use(self, model: LoadedModel, residency: DeviceResidency | None = None) -> None:
        """Serve with a model that is loaded; `load` does this with the checkpoint's.

        Args:
            model: loaded.
            residency: moves its weights; None: a new one does, except on the CPU.
        """
        memory = self._use_device(model.upstream).memory
        self._loaded = _serve(model, self._settings, memory, residency)

    def unload(self) -> None:
        """Free the memory of the device and of the weights. `load` may follow."""
        self._loaded = None
        if self._device is not None and self._device.runner.broken is None:
            gc.unfreeze()
            self._device.memory.release()
            self._device.memory.release_pinned()

    @property
    def extensions(self) -> tuple[Extension, ...]:
        """TRELLIS.2's extensions, real or stand-ins; empty before `load`."""
        return () if self._device is None else self._device.upstream.extensions

    def describe(self) -> dict[str, object]:
        """Device, extensions, patches, memory in MiB, low_vram, compilation, as JSON values."""
        described: dict[str, object] = {
            "device": self._settings.device,
            "extensions": {e.name: e.kind for e in self.extensions},
        }
        if self._device is not None:
            described["patches"] = list(self._device.upstream.patches)
            if self._device.runner.broken is None:
                described |= _in_mib(self._device.memory)
        loaded = self._loaded  # another thread may unload the model
        if loaded is not None:
            described["low_vram"] = loaded.placement.low_vram
            described |= loaded.compiled.describe()
        return described

    def device_memory(self) -> dict[str, int]:
        """Bytes of the GPU as `DeviceMemory.read`, and of the `weights` that are on it.

        `peak` is that since the last call. Empty without a GPU.
        """
        if self._device is None or self._device.runner.broken is not None:
            return {}
        memory = self._device.memory.read()
        self._device.memory.reset_peak()
        if memory and self._loaded is not None:
            memory["weights"] = self._loaded.placement.weights
        return memory

    # ---- stages ------------------------------------------------------------------------

    def shape(self, cutout: Cutout, options: Options, report: Report) -> Shape:
        """Make the surface, at the resolution that was reached.

        Stages: "condition", "structure", "shape", "decode"; "retry" after out of memory.

        Raises:
            InputError: the checkpoint's sampler does not have a requested parameter.
            OutOfMemoryError: after all retries.
            EngineError: no object was found, or TRELLIS.2 failed.
        """
        device, loaded = self._require()
        progress = StageProgress(report)

        def run(attempt: Options) -> Shape:
            models = PIPELINE_TYPES[attempt.pipeline_type]
            with _stage(device, loaded, progress, models.shape_order, models.resolution):
                return loaded.stages.shape(cutout, attempt, progress)

        attempts = oom_policy.shape_attempts(options, self._oom_fallback)
        shape, warnings = loaded.policy.run(run, attempts, progress)
        return replace(shape, warnings=(*unused.fields(options), *warnings))

    def texture(self, shape: Shape, cutout: Cutout, options: Options, report: Report) -> VoxelField:
        """Make the material of a shape of this engine.

        Stages: "texture", "decode".

        Raises:
            InputError: the checkpoint's sampler does not have a requested parameter.
            OutOfMemoryError: even with one model on the device at a time.
            EngineError: TRELLIS.2 failed.
        """
        del cutout  # its features are part of the state
        device, loaded = self._require()
        progress = StageProgress(report)
        state = cast("Trellis2State", shape.state)

        def run(attempt: Options) -> VoxelField:
            order = PIPELINE_TYPES[state.pipeline_type].texture_order
            with _stage(device, loaded, progress, order, shape.resolution):
                return loaded.stages.texture(state, shape.resolution, attempt, progress)

        field, _ = loaded.policy.run(run, Attempts((options,)), progress)
        return field

    def texture_mesh(
        self, mesh: Mesh, cutout: Cutout, options: Options, report: Report
    ) -> VoxelField:
        """Make the material of an uploaded mesh, by TRELLIS.2's texturing pipeline.

        The resolution is that of the pipeline type, or lower after a retry.

        Stages: "condition", "texture", "decode"; "retry" after out of memory.

        Raises:
            InputError: the texturing pipeline is not available.
            OutOfMemoryError: after all retries.
            EngineError: TRELLIS.2 failed.
        """
        device, loaded = self._require()
        if loaded.model.texturing is None:
            raise InputError(
                "mesh: TRELLIS.2 cannot texture uploaded meshes here: "
                f"{loaded.model.why_no_texturing}; a server with model.engine: preview can"
            )
        progress = StageProgress(report)

        def run(resolution: int) -> VoxelField:
            order = mesh_texture_order(resolution)
            with _stage(device, loaded, progress, order, resolution):
                return loaded.stages.mesh_texture(mesh, cutout, options, resolution, progress)

        attempts = oom_policy.mesh_texture_attempts(options.pipeline_type, self._oom_fallback)
        field, warnings = loaded.policy.run(run, attempts, progress)
        return replace(field, warnings=(*unused.fields(options), *warnings))

    # ---- TRELLIS.2's own cut-out and exporter ------------------------------------------

    def remove_background(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return alpha, uint8 [H, W], of a picture, RGB uint8 [H, W, 3], by TRELLIS.2's remover.

        Raises:
            OutOfMemoryError: the device has no memory for it.
            EngineError: the remover is not loaded, or failed.
        """
        device, loaded = self._require()
        if loaded.model.remover is None:
            raise EngineError("TRELLIS.2's background remover is not loaded")
        progress = StageProgress(_ignore)
        progress("background", 0, 1)
        with (
            device.runner.running(loaded.placement, progress),
            loaded.placement.remover_on_device(),
        ):
            cut_out = loaded.model.remover(Image.fromarray(rgb))
        return np.array(cut_out.getchannel("A"))

    def export(self, shape: Shape, field: VoxelField, options: Options, report: Report) -> bytes:
        """Write the textured GLB by TRELLIS.2's own exporter, in glTF's frame.

        Stage: "export". It cannot be cancelled once it runs.

        Raises:
            OutOfMemoryError: the device has no memory for it.
            EngineError: it failed.
        """
        device, loaded = self._require()
        model, progress = loaded.model, StageProgress(report)
        progress("export", 0, 1)
        with device.runner.running(loaded.placement, progress, inference=False):
            device.memory.release()  # CuMesh and nvdiffrast allocate beside PyTorch's cache
            glb = upstream_glb.write(
                model.upstream.torch, shape.mesh, field, options, device=model.pipeline.device
            )
        progress("export", 1, 1)
        _finish_stage(device.memory)
        return glb

    # ---- the parts ---------------------------------------------------------------------

    def _use_device(self, upstream: Upstream) -> _Device:
        if self._device is None:
            memory = DeviceMemory(upstream.torch, self._settings.device)
            runner = StageRunner(upstream.torch, partial(_clean_up, memory), memory)
            self._device = _Device(upstream, memory, runner)
        return self._device

    def _require(self) -> tuple[_Device, _Loaded]:
        """The device and the loaded model.

        Raises:
            EngineBrokenError: the device cannot be used any more.
            EngineError: the model is not loaded.
        """
        if self._device is not None:
            self._device.runner.check()
        if self._device is None or self._loaded is None:
            raise EngineError("the model is not loaded")
        return self._device, self._loaded


@dataclass(frozen=True, slots=True, eq=False)
class _Device:
    """Parts of the engine that stay when the model is unloaded."""

    upstream: Upstream
    memory: DeviceMemory
    runner: StageRunner


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    """Parts of the engine for one loaded model."""

    model: LoadedModel
    placement: ModelPlacement
    stages: Stages
    policy: OomPolicy
    compiled: Compilation


def _warm_up(device: _Device, loaded: _Loaded, report: Report) -> None:
    """Tune and compile kernels before the first job."""
    sizes = warm_up.sizes_of(loaded.model)
    if sizes:
        running = partial(device.runner.running, loaded.placement)
        warm_up.run(loaded.model, sizes, running, report)
        device.memory.release()


def _serve(
    model: LoadedModel,
    settings: ModelSettings,
    memory: DeviceMemory,
    residency: DeviceResidency | None,
) -> _Loaded:
    if residency is None:
        residency = residencies.for_device(model.upstream.torch, settings.device, memory)
    placement = ModelPlacement(model, settings.device, residency, memory)
    policy = OomPolicy(
        placement,
        partial(_clean_up, memory),
        partial(_finish_stage, memory),
        may_return=settings.low_vram is not True,
    )
    compiled = compile_models(model.upstream.torch, settings, model.pipeline, SAMPLERS)
    return _Loaded(model, placement, Stages(model, placement), policy, compiled)


@contextlib.contextmanager
def _stage(
    device: _Device,
    loaded: _Loaded,
    progress: StageProgress,
    order: Sequence[str],
    resolution: int,
) -> Generator[None, None, None]:
    """Run the block as one stage; see `StageRunner.running` and `ModelPlacement.stage`."""
    with (
        device.runner.running(loaded.placement, progress),
        loaded.placement.stage(order, resolution),
    ):
        yield


def _clean_up(memory: DeviceMemory) -> None:
    """Free the device's memory that nothing uses: after an error, before a retry."""
    memory.release()
    _log("Device memory was freed", memory)


def _finish_stage(memory: DeviceMemory) -> None:
    """Free the device's memory that others may lack."""
    memory.trim()
    _log("Device memory after a stage", memory)


def _log(message: str, memory: DeviceMemory) -> None:
    read = _in_mib(memory)
    if read:
        logger.info(message, extra=read)


def _in_mib(memory: DeviceMemory) -> dict[str, int]:
    return {f"vram_{name}_mb": size // 2**20 for name, size in memory.read().items()}


def _ignore(stage: str, step: int, steps: int) -> None:
    """Ignore a report."""
