"""`Trellis2Engine`: the two stages, as TRELLIS.2's `run()` does them in one.

    shape      condition → structure → shape (twice in a cascade) → decode
    texture    texture → decode

One after the other they give what `run(seed)` gives, bit for bit: noise is drawn on the CPU
alone and in a fixed order, so that it is enough to keep the generator's state in between.
What else the texture needs stays on the CPU, 28 MB for a large job.

What this module does not know: pictures before the cut-out, files, jobs, queues.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import logging
import math
import re
import threading
import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
from PIL import Image

from trellis2_server.engines.trellis2 import checkpoint as files
from trellis2_server.engines.trellis2 import environment, loading, upstream_glb
from trellis2_server.errors import (
    EngineBrokenError,
    EngineError,
    InputError,
    MissingPackageError,
    OutOfMemoryError,
    ServerError,
)
from trellis2_server.mesh import Mesh, Shape, VoxelField

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from numpy.typing import NDArray

    from trellis2_server.engines.portable import Extension
    from trellis2_server.engines.trellis2.environment import Upstream
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.parameters import Options, SamplerOptions
    from trellis2_server.settings import ModelSettings

    Report = Callable[[str, int, int], None]

logger = logging.getLogger(__name__)

Tensor = Any
OomFallback = Literal["none", "tokens", "resolution"]

#: Voxels along the edge at which TRELLIS.2 textures given meshes.
_MESH_RESOLUTIONS: Final = (512, 1024, 1536)
#: Of a cascade, below which fewer tokens do not help: its resolution is at its lowest.
MIN_TOKENS: Final = 24_576
_SHRINK: Final = 0.75
_ATTRIBUTES: Final = 6
#: CUDA's words for what ends a process' use of the device (CUDA Runtime API, "Data types used
#: by CUDA Runtime", cudaError), and for what does not.
_FOR_GOOD: Final = (
    "illegal memory access",
    "illegal address",
    "misaligned address",
    "illegal instruction",
    "invalid program counter",
    "invalid address space",
    "device-side assert",
    "unspecified launch failure",
    "launch timed out",
    "hardware stack error",
    "uncorrectable ecc error",
    "over nvlink",
    "unknown error",
    "device is lost",
    "fallen off the bus",
    "driver shutting down",
)
_PASSING: Final = (
    "out of memory",
    "invalid argument",
    "invalid configuration",
    "invalid device function",
    "no kernel image",
    "too many resources requested",
    "not supported",
)
_PATH: Final = re.compile(r"(?:[A-Za-z]:)?[/\\][^\s'\"]+")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pipeline type stands for.

    Attributes:
        structure_resolution: voxels along the edge of the sparse structure.
        shape: model, or models of a cascade.
        texture: model.
        resolution: voxels along the edge that are aimed at.
        next: the type with less memory; None: there is none.
    """

    structure_resolution: int
    shape: tuple[str, ...]
    texture: str
    resolution: int
    next: str | None


_SHAPE_512, _SHAPE_1024 = "shape_slat_flow_model_512", "shape_slat_flow_model_1024"
_TEX_512, _TEX_1024 = "tex_slat_flow_model_512", "tex_slat_flow_model_1024"
_ALWAYS: Final = (
    "sparse_structure_flow_model",
    "sparse_structure_decoder",
    "shape_slat_decoder",
    "tex_slat_decoder",
)
PLANS: Final = {
    "512": Plan(32, (_SHAPE_512,), _TEX_512, 512, None),
    "1024": Plan(64, (_SHAPE_1024,), _TEX_1024, 1024, "512"),
    "1024_cascade": Plan(32, (_SHAPE_512, _SHAPE_1024), _TEX_1024, 1024, "512"),
    "1536_cascade": Plan(32, (_SHAPE_512, _SHAPE_1024), _TEX_1024, 1536, "1024_cascade"),
}
MODELS: Final = (*_ALWAYS, _SHAPE_512, _SHAPE_1024, _TEX_512, _TEX_1024)


@dataclass(frozen=True, slots=True, eq=False)
class Trellis2State:
    """What the texture stage goes on from, all of it on the CPU.

    Attributes:
        pipeline_type: the one that was used; less than what was asked for after a retry.
        features: float32 [T, 32], the shape's latent.
        coords: int32 [T, 4] of it: batch, x, y, z.
        condition: float32 [1, P, C], the picture's features for the texture's model.
        generator: uint8, PyTorch's CPU generator.
        subdivisions: for each level of the decoder uint8 [N, 1]: one bit a child.
    """

    pipeline_type: str
    features: NDArray[np.float32]
    coords: NDArray[np.int32]
    condition: NDArray[np.float32]
    generator: NDArray[np.uint8]
    subdivisions: tuple[NDArray[np.uint8], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all the arrays."""
        arrays = (self.features, self.coords, self.condition, self.generator, *self.subdivisions)
        return sum(a.nbytes for a in arrays)


class Trellis2Engine:
    """TRELLIS.2. One call at a time; nothing of a job stays on the device between calls.

    Args:
        settings: which weights, where, on which device.
        exports: whether `export` will be called, so that `load` looks for what it needs.
        oom_fallback: what a job that is out of memory is tried again with. First it is, in
            any case, models moved to the device one at a time, which changes no result.
            "none": nothing else; "tokens": fewer tokens (cascades above 1024); "resolution":
            then the lower pipeline types.
    """

    name: str = "trellis2"

    def __init__(
        self,
        settings: ModelSettings,
        *,
        oom_fallback: OomFallback = "resolution",
        exports: bool = False,
    ) -> None:
        self._settings = settings
        self._exports = exports
        self._remover: Any = None
        #: The cut-out may be asked for from another thread than the stages.
        self._device_lock = threading.Lock()
        self._oom_fallback: OomFallback = oom_fallback
        self._upstream: Upstream | None = None
        self._pipeline: Any = None
        self._texturing: Any = None
        self._no_texturing = "the model is not loaded"
        self._broken: EngineBrokenError | None = None

    # ---- loading -----------------------------------------------------------------------

    def load(self, report: Report) -> None:
        """Import TRELLIS.2, find or download the weights, check them, load them.

        Stages: "import", "download" (MiB), "check", "load".

        Raises:
            MissingPackageError: names the package and the line that installs it.
            EngineError: the device, the files or the weights; what to do about it.
            OutOfMemoryError: the weights do not fit on the device, even one at a time.
        """
        if self._pipeline is not None:
            return
        report("import", 0, 1)
        upstream = self._upstream = environment.import_upstream(self._settings)
        report("import", 1, 1)
        if self._exports:
            upstream_glb.check()
        found = files.find(self._settings, MODELS, report)
        report("check", 0, 1)
        loading.check(upstream, found)
        report("check", 1, 1)
        low_vram = self._settings.low_vram
        if low_vram is None:
            low_vram = bool(found.args.get("low_vram", True))
        try:
            self._pipeline = self._build(upstream, found, report, low_vram=low_vram)
        except OutOfMemoryError:
            # Who said that all of it must be on the device is told that it does not fit.
            if low_vram or self._settings.low_vram is False or self._settings.device == "cpu":
                raise
        if self._pipeline is None:
            logger.warning("The weights do not fit on the device at once: loading with low_vram")
            _collect(upstream.torch)
            self._pipeline = self._build(upstream, found, report, low_vram=True)
        if self._settings.background == "upstream":
            self._remover = loading.build_remover(
                found, self._settings.device, low_vram=self._pipeline.low_vram
            )
        try:
            self._texturing = loading.build_texturing(upstream, found, self._pipeline)
        except MissingPackageError as error:
            self._no_texturing = str(error)
            logger.warning("Given meshes cannot be textured: %s", error)
        # What is here now stays. Left out, the search for garbage between jobs takes
        # microseconds; with torch's and transformers' 400,000 objects it took 0.25 s.
        gc.collect()
        gc.freeze()
        logger.info("TRELLIS.2 loaded", extra=self.describe())

    def _build(
        self, upstream: Upstream, found: files.Checkpoint, report: Report, *, low_vram: bool
    ) -> Any:
        progress = _Progress(report)
        with _translated(progress, "loading"):
            return loading.build(
                upstream, found, device=self._settings.device, low_vram=low_vram, report=progress
            )

    def unload(self) -> None:
        """Give the device's memory back. `load` may follow."""
        self._pipeline = self._texturing = self._remover = None
        if self._upstream is not None and self._broken is None:
            gc.unfreeze()
            _collect(self._upstream.torch)

    @property
    def extensions(self) -> tuple[Extension, ...]:
        """TRELLIS.2's extensions and what stands in for them; empty before `load`."""
        return () if self._upstream is None else self._upstream.extensions

    def describe(self) -> dict[str, object]:
        """For the log and `/healthcheck`: device, memory, extensions. Plain JSON values."""
        said: dict[str, object] = {
            "device": self._settings.device,
            "extensions": {e.name: e.kind for e in self.extensions},
        }
        if self._upstream is not None and self._broken is None:
            memory = _memory(self._upstream.torch, self._settings.device)
            said |= {f"vram_{name}_mb": size // 2**20 for name, size in memory.items()}
        if self._pipeline is not None:
            said["low_vram"] = bool(self._pipeline.low_vram)
        return said

    def device_memory(self) -> dict[str, int]:
        """Bytes of the GPU: `used`, `peak` since the last call, `total`; empty without one."""
        if self._upstream is None or self._broken is not None:
            return {}
        torch, device = self._upstream.torch, self._settings.device
        memory = _memory(torch, device)
        if memory:
            getattr(torch, device.partition(":")[0]).reset_peak_memory_stats(device)
        return memory

    # ---- the two stages ----------------------------------------------------------------

    def shape(self, cutout: Cutout, options: Options, report: Report) -> Shape:
        """The object's surface, at the resolution that was really reached.

        Stages: "condition", "structure", "shape", "decode"; "retry" when memory ran out.

        Raises:
            InputError: the checkpoint's sampler does not have a parameter that is given.
            OutOfMemoryError: after the retries.
            EngineError: no object was found, or TRELLIS.2 failed.
        """
        pipeline = self._loaded()
        progress = _Progress(report)
        attempt, attempts = options, list(_attempts(options, self._oom_fallback))
        failed: list[str] = []
        while True:
            progress.tokens = None
            try:
                with self._stage(progress):
                    shape = self._shape(pipeline, cutout, attempt, tuple(failed), progress)
            except OutOfMemoryError:
                attempts = _helpful(attempts, attempt, progress.tokens)
                if not attempts and not self._may_save_memory(pipeline):
                    raise
            else:
                self._clean_up()
                return shape
            # Out here the error is gone, and with it all that it held on the device.
            if self._may_save_memory(pipeline):
                self._save_memory(pipeline)
                attempts = list(_attempts(options, self._oom_fallback))
                continue
            self._clean_up()
            lower = attempts.pop(0)
            failed.append(
                f"out of memory with {_spoken(attempt)}; tried again with {_spoken(lower)}"
            )
            attempt = lower
            logger.warning("Job tried again with less", extra={"why": failed[-1]})
            progress("retry", len(failed), len(failed) + len(attempts))

    def texture(self, shape: Shape, cutout: Cutout, options: Options, report: Report) -> VoxelField:
        """The material of that surface.

        Stages: "texture", "decode".

        Raises:
            InputError: the checkpoint's sampler does not have a parameter that is given.
            OutOfMemoryError: even with one model on the device at a time.
            EngineError: TRELLIS.2 failed.
        """
        del cutout  # its features are in the state
        pipeline = self._loaded()
        progress = _Progress(report)
        state = cast("Trellis2State", shape.state)
        field: VoxelField | None = None
        try:
            with self._stage(progress):
                field = self._texture(pipeline, state, shape.resolution, options, progress)
        except OutOfMemoryError:
            if not self._may_save_memory(pipeline):
                raise
        if field is None:
            self._save_memory(pipeline)
            with self._stage(progress):
                field = self._texture(pipeline, state, shape.resolution, options, progress)
        self._clean_up()
        return field

    def texture_mesh(
        self, mesh: Mesh, cutout: Cutout, options: Options, report: Report
    ) -> VoxelField:
        """The material of a given mesh, through TRELLIS.2's own pipeline for that.

        The voxels are as fine as the pipeline type says, or coarser after a retry.

        Stages: "condition", "texture", "decode"; "retry" when memory ran out.

        Raises:
            InputError: a part of that pipeline is not there, or the mesh touches no voxel.
            OutOfMemoryError: after the retries.
            EngineError: TRELLIS.2 failed.
        """
        pipeline = self._loaded()
        if self._texturing is None:
            raise InputError(
                f"mesh: TRELLIS.2 cannot texture given meshes here: {self._no_texturing}; a "
                "server with model.engine: preview can"
            )
        progress = _Progress(report)
        is_stepwise = self._oom_fallback == "resolution"
        wanted = PLANS[options.pipeline_type].resolution
        ladder = [r for r in _MESH_RESOLUTIONS if r < wanted] if is_stepwise else []
        ladder.append(wanted)
        failed: list[str] = []
        while True:
            try:
                with self._stage(progress):
                    field = self._texture_mesh(mesh, cutout, options, ladder[-1], progress)
            except OutOfMemoryError:
                if len(ladder) == 1 and not self._may_save_memory(pipeline):
                    raise
            else:
                self._clean_up()
                return replace(field, warnings=tuple(failed))
            if self._may_save_memory(pipeline):
                self._save_memory(pipeline)
                continue
            self._clean_up()
            higher = ladder.pop()
            failed.append(
                f"out of memory with {higher} voxels along an edge; tried again with {ladder[-1]}"
            )
            logger.warning("Given mesh tried again with less", extra={"why": failed[-1]})
            progress("retry", len(failed), len(failed) + len(ladder) - 1)

    def _shape(
        self,
        pipeline: Any,
        cutout: Cutout,
        options: Options,
        warnings: tuple[str, ...],
        progress: _Progress,
    ) -> Shape:
        plan = self._plan(options.pipeline_type)
        structure = self._parameters(pipeline.sparse_structure_sampler, options.ss, "ss")
        shape = self._parameters(pipeline.shape_slat_sampler, options.shape, "shape")
        torch = self._torch
        picture = Image.fromarray(cutout.rgb)
        torch.manual_seed(options.seed)
        progress("condition", 0, 1)
        condition = pipeline.get_cond([picture], 512)
        last_condition = (
            condition if options.pipeline_type == "512" else pipeline.get_cond([picture], 1024)
        )
        progress("condition", 1, 1)
        with progress.steps(pipeline.sparse_structure_sampler, "structure", structure["steps"]):
            coords = pipeline.sample_sparse_structure(
                condition, plan.structure_resolution, 1, structure
            )
        if not coords.shape[0]:
            raise EngineError("TRELLIS.2 found no object in the picture; another seed may help")
        models = [pipeline.models[name] for name in plan.shape]
        resolution = plan.resolution
        steps = shape["steps"] * len(models)
        with progress.steps(pipeline.shape_slat_sampler, "shape", steps):
            if len(models) == 1:
                latent = pipeline.sample_shape_slat(last_condition, models[0], coords, shape)
            else:
                with progress.between(pipeline.models["shape_slat_decoder"], models[1]):
                    latent, resolution = pipeline.sample_shape_slat_cascade(
                        condition,
                        last_condition,
                        *models,
                        512,
                        plan.resolution,
                        coords,
                        shape,
                        options.max_num_tokens,
                    )
        generator = torch.get_rng_state().numpy().copy()
        with progress.blocks(pipeline.models["shape_slat_decoder"]):
            meshes, subdivisions = pipeline.decode_shape_slat(latent, resolution)
        state = Trellis2State(
            pipeline_type=options.pipeline_type,
            features=_array(latent.feats, np.float32),
            coords=_array(latent.coords, np.int32),
            condition=_array(last_condition["cond"], np.float32),
            generator=generator,
            subdivisions=tuple(_pack(level.feats) for level in subdivisions),
        )
        return Shape(_mesh(meshes[0]), int(resolution), state, warnings)

    def _texture(
        self,
        pipeline: Any,
        state: Trellis2State,
        resolution: int,
        options: Options,
        progress: _Progress,
    ) -> VoxelField:
        plan = self._plan(state.pipeline_type)
        parameters = self._parameters(pipeline.tex_slat_sampler, options.tex, "tex")
        torch, sparse, device = self._torch, self._require().sparse, pipeline.device
        condition = torch.from_numpy(state.condition).to(device)
        latent = sparse.SparseTensor(
            feats=torch.from_numpy(state.features).to(device),
            coords=torch.from_numpy(state.coords).to(device),
        )
        torch.set_rng_state(torch.from_numpy(state.generator))
        with progress.steps(pipeline.tex_slat_sampler, "texture", parameters["steps"]):
            texture = pipeline.sample_tex_slat(
                {"cond": condition, "neg_cond": torch.zeros_like(condition)},
                pipeline.models[plan.texture],
                latent,
                parameters,
            )
        # Only the sign of a subdivision is looked at, and never where its voxels are.
        guides = [
            sparse.VarLenTensor(torch.from_numpy(_unpack(level)).to(device))
            for level in state.subdivisions
        ]
        with progress.blocks(pipeline.models["tex_slat_decoder"]):
            voxels = pipeline.decode_tex_slat(texture, guides)
        return _field(voxels, resolution)

    # ---- TRELLIS.2's own, where it is asked for ----------------------------------------

    def remove_background(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Alpha, uint8 [H, W], of a picture RGB uint8 [H, W, 3], by TRELLIS.2's remover.

        Raises:
            OutOfMemoryError: the device has no room for it.
            EngineError: it is not loaded, or failed.
        """
        pipeline = self._loaded()
        if self._remover is None:
            raise EngineError("TRELLIS.2's background remover is not loaded")
        progress = _Progress(_silent)
        progress("background", 0, 1)
        with self._stage(progress), _current(self._torch, self._settings.device):
            if pipeline.low_vram:
                self._remover.to(self._settings.device)
            cut_out = self._remover(Image.fromarray(rgb))
            if pipeline.low_vram:
                self._remover.cpu()
        return np.array(cut_out.getchannel("A"))

    def export(self, shape: Shape, field: VoxelField, options: Options, report: Report) -> bytes:
        """The textured GLB as TRELLIS.2's own exporter writes it, in glTF's frame.

        Stage: "export". It cannot be cancelled on its way.

        Raises:
            OutOfMemoryError: the device has no room for it.
            EngineError: it failed.
        """
        progress = _Progress(report)
        progress("export", 0, 1)
        with (
            self._stage(progress, for_inference=False),
            _current(self._torch, self._settings.device),
        ):
            glb = upstream_glb.write(
                self._torch, shape.mesh, field, options, device=self._loaded().device
            )
        progress("export", 1, 1)
        self._clean_up()
        return glb

    def _texture_mesh(
        self, mesh: Mesh, cutout: Cutout, options: Options, resolution: int, progress: _Progress
    ) -> VoxelField:
        texturing = self._texturing
        plan = PLANS["512" if resolution == PLANS["512"].resolution else "1024"]
        if plan.texture not in texturing.models:
            raise EngineError(f"this checkpoint has no {plan.texture}")
        parameters = self._parameters(texturing.tex_slat_sampler, options.tex, "tex")
        texturing.low_vram = self._loaded().low_vram
        encoder = texturing.models[files.MESH_ENCODER]
        self._torch.manual_seed(options.seed)
        step = progress.count("condition", len(_blocks(encoder)) + 2)
        condition = texturing.get_cond([Image.fromarray(cutout.rgb)], plan.resolution)
        step()
        encoder.to(texturing.device)
        with progress.hooks(encoder, step):
            latent = texturing.encode_shape_slat(mesh, resolution)
        encoder.cpu()
        step()
        with progress.steps(texturing.tex_slat_sampler, "texture", parameters["steps"]):
            texture = texturing.sample_tex_slat(
                condition, texturing.models[plan.texture], latent, parameters
            )
        with progress.blocks(texturing.models["tex_slat_decoder"]):
            voxels = texturing.decode_tex_slat(texture)
        return _field(voxels, resolution)

    # ---- around them -------------------------------------------------------------------

    def _require(self) -> Upstream:
        if self._upstream is None:
            raise EngineError("the model is not loaded")
        return self._upstream

    @property
    def _torch(self) -> Any:
        return self._require().torch

    def _loaded(self) -> Any:
        if self._broken is not None:
            raise EngineBrokenError(str(self._broken))
        if self._pipeline is None:
            raise EngineError("the model is not loaded")
        return self._pipeline

    @contextlib.contextmanager
    def _stage(
        self, progress: _Progress, *, for_inference: bool = True
    ) -> Generator[None, None, None]:
        """Inference mode and own random numbers; afterwards the pipeline is as it was."""
        torch = self._torch
        self._loaded()
        try:
            with (
                self._device_lock,
                _translated(progress, "the stage"),
                torch.inference_mode() if for_inference else torch.no_grad(),
                torch.random.fork_rng(devices=[]),
            ):
                yield
        except EngineBrokenError as error:
            # No call on the device would do anything but raise this once more.
            self._broken = copy.copy(error)
            raise
        except BaseException as error:
            # Its frames would hold what they had on the device for as long as it is kept, and
            # with a reference back to it until the next search for garbage.
            progress.raised = None
            _forget_frames(error)
            self._restore(progress.stage)
            raise

    def _restore(self, stage: str) -> None:
        """After a stage that ended early.

        Raises:
            EngineBrokenError: that fails as well: nobody knows what is where.
        """
        try:
            self._put_back()
            self._clean_up()
        except Exception as error:
            self._broken = EngineBrokenError(
                f"the device failed for good after {stage}: {_first_line(error)}; the server must "
                "be started again"
            )
            raise copy.copy(self._broken) from error

    def _put_back(self) -> None:
        """Undo what an exception kept TRELLIS.2 from undoing."""
        pipeline = self._loaded()
        for name in loading.SAMPLERS:
            getattr(pipeline, name).on_step = None
        if pipeline.low_vram:
            for model in pipeline.models.values():
                model.cpu()
            pipeline.image_cond_model.cpu()
        if "shape_slat_decoder" in pipeline.models:
            pipeline.models["shape_slat_decoder"].low_vram = False
        if self._texturing is not None:
            self._texturing.models[files.MESH_ENCODER].cpu()
        if self._remover is not None and pipeline.low_vram:
            self._remover.cpu()

    def _clean_up(self) -> None:
        """Between jobs: no garbage, and no memory of the device kept for later."""
        _collect(self._torch)
        if self._settings.device != "cpu":
            logger.info("Device memory after a stage", extra=self.describe())

    def _may_save_memory(self, pipeline: Any) -> bool:
        """Whether models are on the device that are not computing."""
        return self._settings.device != "cpu" and not pipeline.low_vram

    def _save_memory(self, pipeline: Any) -> None:
        """From now on models are on the CPU until they are needed; changes no result."""
        logger.warning("Out of device memory: models are moved there one at a time from now on")
        pipeline.low_vram = True
        self._put_back()
        self._clean_up()

    def _plan(self, pipeline_type: str) -> Plan:
        plan, models = PLANS[pipeline_type], self._loaded().models
        missing = [name for name in (*_ALWAYS, *plan.shape, plan.texture) if name not in models]
        if missing:
            raise EngineError(
                f"this checkpoint has no {missing[0]}, which pipeline_type {pipeline_type} needs"
            )
        return plan

    @staticmethod
    def _parameters(sampler: Any, given: SamplerOptions, prefix: str) -> dict[str, Any]:
        """What TRELLIS.2's sampler is called with; it ignores what it does not know."""
        known = loading.supported_parameters(sampler)
        wanted: dict[str, Any] = {
            "steps": given.sampling_steps,
            "guidance_strength": given.guidance_scale,
            "guidance_rescale": given.guidance_rescale,
            "guidance_interval": given.guidance_interval,
            "rescale_t": given.rescale_t,
        }
        parameters = {key: value for key, value in wanted.items() if value is not None}
        unknown = parameters.keys() - known
        for key in unknown - {"guidance_strength"}:
            raise InputError(f"{prefix}_{key}: this checkpoint's sampler does not have it")
        numbers = [v for v in parameters.values() if not isinstance(v, tuple)]
        if not all(math.isfinite(n) for n in numbers) or given.sampling_steps < 1:
            raise InputError(f"{prefix}_sampling_steps: must be at least 1")
        return {key: value for key, value in parameters.items() if key in known}


class _Progress:
    """A `report` that remembers what it raised, and counts what TRELLIS.2 does."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last = ("start", 0, 1)
        self.raised: BaseException | None = None
        #: How many a cascade's second model works on, once it does.
        self.tokens: int | None = None

    @property
    def stage(self) -> str:
        """What was reported last."""
        return self._last[0]

    def __call__(self, stage: str, step: int, steps: int) -> None:
        self._last = (stage, step, steps)
        try:
            self._report(stage, step, steps)
        except BaseException as error:
            self.raised = error
            raise

    def count(self, stage: str, steps: int) -> Callable[[], None]:
        """To be called after each of so many steps of a stage."""
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            self(stage, min(done, steps), steps)

        self(stage, 0, steps)
        return step

    @contextlib.contextmanager
    def steps(self, sampler: Any, stage: str, steps: int) -> Generator[None, None, None]:
        """Report each step of a sampler, `steps` in all."""
        sampler.on_step = self.count(stage, steps)
        try:
            yield
        finally:
            sampler.on_step = None

    @contextlib.contextmanager
    def blocks(self, decoder: Any) -> Generator[None, None, None]:
        """Report each block of a sparse decoder, as it begins."""
        step = self.count("decode", len(_blocks(decoder)) + 1)
        with self.hooks(decoder, step):
            yield
        step()

    @contextlib.contextmanager
    def between(self, decoder: Any, second: Any) -> Generator[None, None, None]:
        """Of a cascade: cancel while the decoder refines, and count the second model's tokens."""

        def again() -> None:
            self(*self._last)

        def count(_: object, args: tuple[Any, ...]) -> None:
            self.tokens = len(args[0].coords)

        hook = second.register_forward_pre_hook(count, prepend=True)
        try:
            with self.hooks(decoder, again):
                yield
        finally:
            hook.remove()

    @contextlib.contextmanager
    def hooks(self, model: Any, step: Callable[[], None]) -> Generator[None, None, None]:
        """Call `step` as each block of a sparse model begins."""

        def begin(*_: object) -> None:
            step()

        hooks = [block.register_forward_pre_hook(begin) for block in _blocks(model)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _blocks(model: Any) -> list[Any]:
    """Of a sparse encoder or decoder, in the order in which they run."""
    return [block for level in model.blocks for block in level]


def _attempts(options: Options, fallback: OomFallback) -> Iterator[Options]:
    """Less and less of what is asked for."""
    if fallback == "none":
        return
    if PLANS[options.pipeline_type].resolution > 1024:  # noqa: PLR2004 - no cascade goes lower
        tokens = options.max_num_tokens
        while tokens > MIN_TOKENS:
            tokens = max(int(tokens * _SHRINK), MIN_TOKENS)
            yield replace(options, max_num_tokens=tokens)
    lower = PLANS[options.pipeline_type].next
    while fallback == "resolution" and lower is not None:
        yield replace(options, pipeline_type=cast("Any", lower))
        lower = PLANS[lower].next


def _helpful(attempts: list[Options], failed: Options, tokens: int | None) -> list[Options]:
    """Those that do not come to the same thing as the one that failed.

    A limit that there are fewer tokens than changes nothing, nor does any where memory ran
    out before there were tokens (`tokens` is None).
    """
    return [
        attempt
        for attempt in attempts
        if attempt.pipeline_type != failed.pipeline_type
        or (tokens is not None and attempt.max_num_tokens <= tokens)
    ]


def _spoken(options: Options) -> str:
    if PLANS[options.pipeline_type].resolution > 1024:  # noqa: PLR2004 - tokens matter there alone
        return f"{options.pipeline_type} and {options.max_num_tokens} tokens"
    return options.pipeline_type


def _silent(stage: str, step: int, steps: int) -> None:
    """A report that nobody reads."""


@contextlib.contextmanager
def _current(torch: Any, device: str) -> Generator[None, None, None]:
    """`device` as the one that TRELLIS.2 means by "cuda"."""
    if device.partition(":")[0] != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield


def _collect(torch: Any) -> None:
    gc.collect()
    for kind in ("cuda", "mps", "xpu"):
        backend = getattr(torch, kind, None)
        if backend is not None and backend.is_available():
            backend.empty_cache()


def _memory(torch: Any, device: str) -> dict[str, int]:
    """Bytes of a GPU: `used`, `reserved`, `peak`, `total`; empty elsewhere."""
    kind = device.partition(":")[0]
    backend = getattr(torch, kind, None)
    if kind not in {"cuda", "xpu"} or backend is None or not backend.is_available():
        return {}
    return {
        "used": int(backend.memory_allocated(device)),
        "reserved": int(backend.memory_reserved(device)),
        "peak": int(backend.max_memory_allocated(device)),
        "total": int(backend.get_device_properties(device).total_memory),
    }


@contextlib.contextmanager
def _translated(progress: _Progress, doing: str) -> Generator[None, None, None]:
    """Errors of PyTorch and TRELLIS.2 as ours; what `report` raised stays what it is."""
    try:
        yield
    except ServerError:
        raise
    except Exception as error:
        if error is progress.raised:
            raise
        where = progress.stage if doing == "the stage" else doing
        if _is_out_of_memory(error):
            logger.warning(
                "Out of device memory", extra={"stage": where, "why": _first_line(error)}
            )
            raise OutOfMemoryError(
                f"the device ran out of memory in {where}; a lower pipeline_type may fit"
            ) from error
        logger.exception("TRELLIS.2 failed", extra={"stage": where})
        if _is_for_good(error):
            raise EngineBrokenError(
                f"the device failed for good in {where}: {_first_line(error)}; the server must be "
                "started again"
            ) from error
        raise EngineError(f"TRELLIS.2 failed in {where}: {_first_line(error)}") from error


def _forget_frames(error: BaseException | None) -> None:
    """Drop the local variables of the calls that an error went through; where it was stays."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _is_out_of_memory(error: Exception) -> bool:
    if type(error).__name__ in {"OutOfMemoryError", "MemoryError"}:
        return True
    text = str(error).lower()
    return any(sign in text for sign in ("out of memory", "alloc_failed", "can't allocate memory"))


def _is_for_good(error: Exception) -> bool:
    """Whether every later call on the device in this process would fail as well.

    CUDA keeps such an error with its context, which lives as long as the process does.
    PyTorch raises `AcceleratorError`, before 2.8 a `RuntimeError`, with CUDA's own words.
    """
    text = str(error).lower()
    if type(error).__name__ == "AcceleratorError":
        return not any(sign in text for sign in _PASSING)
    is_of_device = any(name in text for name in ("cuda", "hip error", "cudnn", "cublas", "nccl"))
    return is_of_device and any(sign in text for sign in _FOR_GOOD)


def _first_line(error: Exception) -> str:
    """One line without paths, for a client."""
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {_PATH.sub('…', line)[:200]}"


def _array(tensor: Tensor, dtype: Any) -> NDArray[Any]:
    """The same values on the CPU, in memory of their own."""
    if dtype == np.float32:
        tensor = tensor.float()
    return np.array(tensor.cpu().numpy(), dtype=dtype, order="C")


def _pack(logits: Tensor) -> NDArray[np.uint8]:
    return np.packbits((logits > 0).cpu().numpy(), axis=1)


def _unpack(bits: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.unpackbits(bits, axis=1).astype(bool)


def _field(voxels: Any, resolution: int) -> VoxelField:
    attributes = _array(voxels.feats, np.float32)
    if attributes.shape[1] != _ATTRIBUTES or not np.isfinite(attributes).all():
        raise EngineError("TRELLIS.2 made no usable texture; another seed may help")
    return VoxelField(
        coords=np.ascontiguousarray(_array(voxels.coords, np.int32)[:, 1:]),
        attributes=attributes,
        resolution=resolution,
    )


def _mesh(mesh: Any) -> Mesh:
    vertices, faces = _array(mesh.vertices, np.float32), _array(mesh.faces, np.int32)
    if not len(faces):
        raise EngineError("TRELLIS.2 made no surface from the picture; another seed may help")
    if not np.isfinite(vertices).all():
        raise EngineError("TRELLIS.2 made a surface with no finite coordinates")
    return Mesh(vertices=vertices, faces=faces)
