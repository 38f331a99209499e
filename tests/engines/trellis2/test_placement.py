from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from trellis2_server.engines.trellis2.loaded_model import LoadedModel
from trellis2_server.engines.trellis2.pipeline_types import MESH_ENCODER
from trellis2_server.engines.trellis2.placement import ModelPlacement
from trellis2_server.engines.trellis2.samplers import SAMPLERS


class Model:
    """Notes where it is moved.

    Attributes:
        moves: devices, in order.
    """

    def __init__(self) -> None:
        self.moves: list[str] = []
        self.low_vram = True
        self.on_step: object = print

    def to(self, device: str) -> None:
        self.moves.append(device)

    def cpu(self) -> None:
        self.moves.append("cpu")


def placed(
    device: str = "cuda", *, low_vram: bool = False
) -> tuple[ModelPlacement, dict[str, Model], SimpleNamespace]:
    """Placement of small models, these by name, and their pipeline."""
    models = {name: Model() for name in ("shape_slat_decoder", "tex_slat_decoder")}
    rest = {name: Model() for name in ("encoder", "mesh_encoder", "remover", "sampler")}
    pipeline = SimpleNamespace(
        models=models,
        image_cond_model=rest["encoder"],
        low_vram=low_vram,
        **dict.fromkeys(SAMPLERS, rest["sampler"]),
    )
    texturing = SimpleNamespace(models={MESH_ENCODER: rest["mesh_encoder"]}, device=device)
    upstream: Any = None
    model = LoadedModel(upstream, pipeline, texturing, remover=rest["remover"])
    return ModelPlacement(model, device), models | rest, pipeline


def test_memory_can_be_saved_once_and_only_on_a_gpu() -> None:
    placement, _, pipeline = placed()
    assert placement.can_save_memory
    placement.save_memory()
    assert pipeline.low_vram is placement.low_vram is True
    assert not placement.can_save_memory
    assert not placed("cpu")[0].can_save_memory


def test_saving_memory_moves_all_models_to_the_cpu() -> None:
    placement, models, _ = placed()
    placement.save_memory()
    for name, model in models.items():
        assert model.moves == ([] if name == "sampler" else ["cpu"])


def test_restoring_moves_models_only_with_low_vram_and_the_mesh_encoder_always() -> None:
    for low_vram in (False, True):
        placement, models, _ = placed(low_vram=low_vram)
        placement.restore()
        moved = {name for name, model in models.items() if model.moves}
        all_of_them = models.keys() - {"sampler"}
        assert moved == (all_of_them if low_vram else {"mesh_encoder"})
        assert models["shape_slat_decoder"].low_vram is False
        assert models["sampler"].on_step is None


def test_the_mesh_encoder_is_on_the_device_only_while_it_is_used() -> None:
    placement, models, _ = placed()
    with placement.mesh_encoder_on_device():
        assert models["mesh_encoder"].moves == ["cuda"]
    assert models["mesh_encoder"].moves == ["cuda", "cpu"]
    with pytest.raises(KeyError), placement.mesh_encoder_on_device():
        raise KeyError
    assert models["mesh_encoder"].moves == ["cuda", "cpu", "cuda"]  # `restore` moves it


def test_the_remover_moves_only_with_low_vram() -> None:
    for low_vram in (False, True):
        placement, models, _ = placed(low_vram=low_vram)
        with placement.remover_on_device():
            pass
        assert models["remover"].moves == (["cuda", "cpu"] if low_vram else [])
