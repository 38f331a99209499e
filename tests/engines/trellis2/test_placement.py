from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fake_device import fake_residency
from trellis2_server.engines.trellis2.loaded_model import LoadedModel
from trellis2_server.engines.trellis2.pipeline_types import MESH_ENCODER
from trellis2_server.engines.trellis2.placement import ModelPlacement
from trellis2_server.engines.trellis2.samplers import SAMPLERS
from trellis2_server.engines.trellis2.working_memory import modelled

if TYPE_CHECKING:
    from trellis2_server.engines.trellis2.residency import DeviceResidency


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


def test_a_stage_of_another_thread_keeps_its_models_when_a_failed_one_is_restored() -> None:
    placement, models, pipeline = placed(low_vram=True)
    moves = models["tex_slat_decoder"].moves
    with placement.stage((), 512):
        thread = threading.Thread(target=placement.restore)
        thread.start()
        thread.join()
        assert moves == []
        placement.restore()  # of this stage's own thread
        assert moves == ["cpu"]
    for block in (lambda: placement.stage((), 512), placement.remover_on_device):
        moves.clear()
        with pytest.raises(KeyError), block():
            raise KeyError
        # Another thread's stage came first: it begins with what was not restored.
        with placement.stage((), 512):
            assert moves == ["cpu"]
        with placement.stage((), 512):
            assert moves == ["cpu"]
    assert pipeline.low_vram


def test_restoring_twice_is_the_same_as_once() -> None:
    placement, models, _ = placed()
    placement.restore()
    placement.restore()
    assert models["shape_slat_decoder"].moves == []
    assert models["shape_slat_decoder"].low_vram is False


def test_without_a_device_whose_memory_is_known_low_vram_stays() -> None:
    placement, models, _ = placed()
    placement.save_memory()
    assert placement.room() is None
    placement.allow_copies_ahead()
    placement.use_device()
    assert placement.low_vram
    assert models["tex_slat_decoder"].moves == ["cpu"]


def residency_of(
    torch: Any, size: int, *, low_vram: bool
) -> tuple[ModelPlacement, DeviceResidency, Any, Any]:
    """Placement of two models of 512 bytes on a fake device of that size."""
    residency, copies, memory = fake_residency(torch, size)
    models = {
        name: torch.nn.Linear(10, 10, bias=False)
        for name in ("shape_slat_decoder", "tex_slat_decoder")
    }
    pipeline = SimpleNamespace(
        models=models,
        image_cond_model=Model(),
        low_vram=low_vram,
        **dict.fromkeys(SAMPLERS, Model()),
    )
    upstream: Any = None
    model = LoadedModel(upstream, pipeline)
    return ModelPlacement(model, "fake", residency, memory), residency, copies, pipeline


def test_low_vram_saves_memory_twice_if_copies_were_made_ahead(torch: Any) -> None:
    placement, residency, _, pipeline = residency_of(torch, 10**12, low_vram=False)
    assert placement.can_save_memory
    assert residency.device_bytes == 1024
    placement.save_memory()
    assert residency.device_bytes == 0
    assert not placement.can_save_memory
    order = tuple(pipeline.models)
    with placement.stage(order, 512):
        pipeline.models[order[0]].to("cpu")  # the fake device
        assert residency.device_bytes == 1024
    assert residency.device_bytes == 0
    assert placement.can_save_memory
    placement.save_memory()
    assert not placement.can_save_memory
    with placement.stage(order, 512):
        pipeline.models[order[0]].to("cpu")
        assert residency.device_bytes == 512
    placement.allow_copies_ahead()
    assert not placement.can_save_memory


def test_all_models_return_to_the_device_or_none_does(torch: Any) -> None:
    placement, residency, copies, _ = residency_of(torch, 10_000, low_vram=True)
    assert placement.room() == 10_000 - 1024
    upload = copies.upload
    failing = iter([False, True])

    def second_fails(slabs: Any, *, ahead: bool = False) -> Any:
        copies.fails = next(failing, False)
        return upload(slabs, ahead=ahead)

    copies.upload = second_fails
    with pytest.raises(torch.OutOfMemoryError):
        placement.use_device()
    assert placement.low_vram
    assert residency.device_bytes == 0
    placement.use_device()
    assert not placement.low_vram
    assert residency.device_bytes == 1024


def test_a_stage_leaves_its_measured_memory_free_for_the_next_one(torch: Any) -> None:
    placement, residency, _, pipeline = residency_of(torch, 10**12, low_vram=True)
    memory: Any = placement._memory
    with placement.stage(tuple(pipeline.models), 1024):
        assert residency.demand == modelled(1024)
        pipeline.models["shape_slat_decoder"].to("cpu")
        memory.peak = 4_000
        pipeline.models["shape_slat_decoder"].cpu()
        memory.peak = 10
    with placement.stage((), 1024):
        assert residency.demand == 4_000
