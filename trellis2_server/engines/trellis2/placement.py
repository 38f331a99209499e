"""Which models are on the device, and when they move.

With `low_vram` off, all models stay on the device. With it on, they stay on the CPU, and
TRELLIS.2's pipeline moves each model to the device for its own calls; `residency` turns these
moves into copies in one direction. Two models move by themselves: the encoder of uploaded
meshes, which is on the device only while it runs, and TRELLIS.2's background remover, which
follows `low_vram`.

Does not know: why models move, what they compute.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.trellis2.pipeline_types import IMAGE_ENCODER, MESH_ENCODER
from trellis2_server.engines.trellis2.samplers import SAMPLERS
from trellis2_server.engines.trellis2.working_memory import WorkingMemory

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from trellis2_server.engines.trellis2.device_memory import DeviceMemory
    from trellis2_server.engines.trellis2.loaded_model import LoadedModel
    from trellis2_server.engines.trellis2.residency import DeviceResidency

_REMOVER: Final = "remover"


class ModelPlacement:
    """Places of a loaded model's parts.

    Args:
        model: loaded.
        device: PyTorch's name of the device that computes.
        residency: moves the weights; it may have some of the models. None: PyTorch does.
        memory: of the device; None: not known.

    Attributes:
        working: working memory of the last stages.
    """

    def __init__(
        self,
        model: LoadedModel,
        device: str,
        residency: DeviceResidency | None = None,
        memory: DeviceMemory | None = None,
    ) -> None:
        self.working = WorkingMemory()
        self._model = model
        self._device = device
        self._residency = residency
        self._memory = memory
        self._resolution = 0
        # A failed stage's thread calls `restore` while another thread's stage may already run.
        self._lock = threading.RLock()
        self._user: int | None = None
        self._needs_reset = False
        self._resident: tuple[str, ...] = ()
        if residency is not None:
            self._resident = self._add_models(residency)

    @property
    def low_vram(self) -> bool:
        """Whether models stay on the CPU until they are needed."""
        return bool(self._model.pipeline.low_vram)

    @property
    def weights(self) -> int:
        """Bytes of the weights that are on the device now, if `residency` moves them."""
        return 0 if self._residency is None else self._residency.device_bytes

    @property
    def can_save_memory(self) -> bool:
        """Whether `save_memory` would free memory of the device."""
        if self._device == "cpu":
            return False
        if not self.low_vram:
            return True
        residency = self._residency
        return residency is not None and residency.was_ahead and not residency.is_strict

    def save_memory(self) -> str:
        """Turn `low_vram` on; if it is on, make no copies ahead. No result changes.

        Returns:
            What was changed, for a log.
        """
        residency = self._residency
        if self.low_vram and residency is not None:
            residency.is_strict = True
            return "models are copied one at a time"
        room = self.room()
        if room is not None:
            self.working.note_failure(self._resolution, room)
        self._model.pipeline.low_vram = self._needs_reset = True
        self.restore()
        self.allow_copies_ahead()
        return "low_vram is on"

    def allow_copies_ahead(self) -> None:
        """Allow copies of the next model again."""
        if self._residency is not None:
            self._residency.is_strict = self._residency.was_ahead = False

    def room(self) -> int | None:
        """Bytes of the device beside all weights, if they were there; None: unknown."""
        if self._residency is None or self._memory is None:
            return None
        available = self._memory.available()
        if available is None:
            return None
        return available - self._residency.bytes_of(self._resident)

    def use_device(self) -> None:
        """Turn `low_vram` off: move all models to the device. No result changes.

        Nothing happens while a stage runs. After an error all models are on the CPU as before.
        """
        with self._lock:
            residency, room = self._residency, self.room()
            if residency is None or self._user is not None:
                return
            self.working.note_return()
            try:
                residency.enter_all(self._resident)
            except BaseException:
                residency.finish()
                self.working.note_failure(self._resolution, room or 0)
                raise
            self._model.pipeline.low_vram = False

    @contextlib.contextmanager
    def stage(self, order: Sequence[str], resolution: int) -> Generator[None, None, None]:
        """Run the block as a stage that uses models in that order; note its working memory.

        After an error `restore` moves the models, outside of the error's handling.

        Args:
            order: names of the models.
            resolution: of the job, voxels.
        """
        residency = self._residency
        with self._used():
            self._resolution = resolution
            if residency is not None:
                residency.demand = self.working.expected(resolution)
                residency.expect(order)
                residency.note_peak()
                residency.working_peak = 0
            yield
            if residency is not None:
                residency.note_peak()
                self.working.note_stage(resolution, residency.working_peak)
                if self.low_vram:
                    residency.finish()

    def restore(self) -> None:
        """Undo what an error or a cancelled stage left in TRELLIS.2's objects.

        TRELLIS.2 does not clean up after an exception: a model can be left on the device, a
        decoder in its `low_vram` mode, a sampler with its callback. Nothing happens while
        another thread's stage runs: it, or the stage after it, begins with this.
        """
        with self._lock:
            if self._user in {None, threading.get_ident()}:
                self._reset()

    @contextlib.contextmanager
    def mesh_encoder_on_device(self) -> Generator[None, None, None]:
        """Move the encoder of uploaded meshes to the device, and back after a success.

        After an error `restore` moves it back, outside of the error's handling.
        """
        texturing = self._model.texturing
        encoder = texturing.models[MESH_ENCODER]
        encoder.to(texturing.device)
        yield
        encoder.cpu()

    @contextlib.contextmanager
    def remover_on_device(self) -> Generator[None, None, None]:
        """With `low_vram`, move the background remover to the device, and back after a success."""
        with self._used():
            if self.low_vram:
                self._model.remover.to(self._device)
            yield
            if self.low_vram:
                self._model.remover.cpu()

    @contextlib.contextmanager
    def _used(self) -> Generator[None, None, None]:
        """Keep the models of the block's stage from other threads' `restore`."""
        with self._lock:
            if self._needs_reset:
                self._reset()
            self._user = threading.get_ident()
        try:
            yield
        except BaseException:
            self._needs_reset = True
            raise
        finally:
            self._user = None

    def _reset(self) -> None:
        self._needs_reset = False
        pipeline = self._model.pipeline
        for name in SAMPLERS:
            getattr(pipeline, name).on_step = None
        if pipeline.low_vram:
            for model in pipeline.models.values():
                model.cpu()
            pipeline.image_cond_model.cpu()
            if self._model.remover is not None:
                self._model.remover.cpu()
        if "shape_slat_decoder" in pipeline.models:
            pipeline.models["shape_slat_decoder"].low_vram = False
        if self._model.texturing is not None:
            self._model.texturing.models[MESH_ENCODER].cpu()
        if self._residency is not None and pipeline.low_vram:
            self._residency.finish()  # drops copies that were made ahead

    def _add_models(self, residency: DeviceResidency) -> tuple[str, ...]:
        """Hand all models over; return the names of those that `low_vram` moves."""
        pipeline, texturing = self._model.pipeline, self._model.texturing
        # These two are wrappers whose methods move the model in them.
        wrapped = {IMAGE_ENCODER: pipeline.image_cond_model, _REMOVER: self._model.remover}
        inner: dict[str, Any] = {
            name: wrapper.model for name, wrapper in wrapped.items() if hasattr(wrapper, "model")
        }
        models = {**pipeline.models, **inner}
        for name, module in models.items():
            if name not in residency:
                residency.add(name, module, is_on_device=not self.low_vram)
            if self.low_vram:
                residency.keep_on_host(name)
        if texturing is not None and MESH_ENCODER not in residency:
            residency.add(MESH_ENCODER, texturing.models[MESH_ENCODER], is_on_device=False)
        return tuple(models)
