"""Which models are on the device, and when they move.

With `low_vram` off, all models stay on the device. With it on, they stay on the CPU, and
TRELLIS.2's pipeline moves each model to the device for its own calls. Two models move by
themselves: the encoder of uploaded meshes, which is on the device only while it runs, and
TRELLIS.2's background remover, which follows `low_vram`.

Does not know: why models move, what they compute.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from trellis2_server.engines.trellis2.checkpoint import MESH_ENCODER
from trellis2_server.engines.trellis2.samplers import SAMPLERS

if TYPE_CHECKING:
    from collections.abc import Generator

    from trellis2_server.engines.trellis2.loaded_model import LoadedModel


class ModelPlacement:
    """Places of a loaded model's parts.

    Args:
        model: loaded.
        device: PyTorch's name of the device that computes.
    """

    def __init__(self, model: LoadedModel, device: str) -> None:
        self._model = model
        self._device = device

    @property
    def low_vram(self) -> bool:
        """Whether models stay on the CPU until they are needed."""
        return bool(self._model.pipeline.low_vram)

    @property
    def can_save_memory(self) -> bool:
        """Whether `save_memory` would free memory of the device."""
        return self._device != "cpu" and not self.low_vram

    def save_memory(self) -> None:
        """Turn `low_vram` on: move all models to the CPU. No result changes."""
        self._model.pipeline.low_vram = True
        self.restore()

    def restore(self) -> None:
        """Undo what an error or a cancelled stage left in TRELLIS.2's objects.

        TRELLIS.2 does not clean up after an exception: a model can be left on the device, a
        decoder in its `low_vram` mode, a sampler with its callback.
        """
        pipeline = self._model.pipeline
        for name in SAMPLERS:
            getattr(pipeline, name).on_step = None
        if pipeline.low_vram:
            for model in pipeline.models.values():
                model.cpu()
            pipeline.image_cond_model.cpu()
        if "shape_slat_decoder" in pipeline.models:
            pipeline.models["shape_slat_decoder"].low_vram = False
        if self._model.texturing is not None:
            self._model.texturing.models[MESH_ENCODER].cpu()
        if self._model.remover is not None and pipeline.low_vram:
            self._model.remover.cpu()

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
        if self.low_vram:
            self._model.remover.to(self._device)
        yield
        if self.low_vram:
            self._model.remover.cpu()
