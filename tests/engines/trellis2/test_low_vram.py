"""`low_vram` on a device that counts copies, see `tests.support.fake_device`."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fake_device import use_fake_device
from tests.support.trellis2_engine import (
    TYPES,
    CancelledError,
    cone,
    load,
    make,
    options,
    out_of_memory,
    picture,
    pipeline_of,
    same,
    silent,
    texturing_of,
)
from trellis2_server.engines.trellis2.device_memory import DeviceMemory
from trellis2_server.engines.trellis2.pipeline_types import (
    IMAGE_ENCODER,
    MESH_ENCODER,
    PIPELINE_TYPES,
    mesh_texture_order,
)

if TYPE_CHECKING:
    from pathlib import Path

    from trellis2_server.engines.trellis2 import Trellis2Engine
    from trellis2_server.engines.trellis2.weight_mirror import WeightMirror


def mirrors_of(engine: Trellis2Engine) -> dict[str, WeightMirror]:
    assert engine._loaded is not None
    residency = engine._loaded.placement._residency
    assert residency is not None
    return residency._mirrors


def pointers(engine: Trellis2Engine) -> list[int]:
    """Where the weights of all models are."""
    pipeline = pipeline_of(engine)
    modules = [*pipeline.models.values(), pipeline.image_cond_model.model]
    return [t.data_ptr() for m in modules for t in (*m.parameters(), *m.buffers())]


@pytest.mark.costly
@pytest.mark.parametrize("pipeline_type", TYPES)
def test_a_job_copies_each_model_that_it_uses_once_and_nothing_back(
    loaded: Trellis2Engine,
    checkpoint: Path,
    torch: Any,
    monkeypatch: pytest.MonkeyPatch,
    pipeline_type: str,
) -> None:
    requested = options(pipeline_type)
    expected = make(loaded, picture(), requested)
    copies, memory = use_fake_device(monkeypatch, torch)
    made = load(checkpoint, low_vram=True)
    host, copies.to_host = pointers(made), 0
    plan = PIPELINE_TYPES[pipeline_type]
    used = {*plan.shape_order, *plan.texture_order}
    for _ in range(2):
        copies.to_device.clear()
        assert same(expected, make(made, picture(), requested))
        sizes = Counter(mirrors_of(made)[name].size for name in used)
        assert Counter(copies.to_device) == sizes
        assert copies.to_host == 0
        assert memory.residency.device_bytes == 0
        assert pointers(made) == host
    assert copies.ahead.count(True) == len(copies.ahead) - 4  # the first of each stage
    made.unload()


def test_an_uploaded_mesh_copies_each_model_that_it_uses_once(
    loaded: Trellis2Engine, checkpoint: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = loaded.texture_mesh(cone(), picture(), options(), silent)
    copies, memory = use_fake_device(monkeypatch, torch)
    made = load(checkpoint, low_vram=True)
    for _ in range(2):
        copies.to_device.clear()
        field = made.texture_mesh(cone(), picture(), options(), silent)
        assert (field.attributes == expected.attributes).all()
        sizes = Counter(mirrors_of(made)[name].size for name in mesh_texture_order(512))
        assert Counter(copies.to_device) == sizes
        assert memory.residency.device_bytes == 0
    assert texturing_of(made).models[MESH_ENCODER] is not None
    made.unload()


def test_without_low_vram_only_the_mesh_encoder_moves(
    loaded: Trellis2Engine, checkpoint: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make(loaded, picture(), options())
    copies, memory = use_fake_device(monkeypatch, torch)
    made = load(checkpoint, low_vram=False)
    assert same(expected, make(made, picture(), options()))
    assert (copies.to_device, copies.to_host) == ([], 0)
    on_device = memory.residency.device_bytes
    made.texture_mesh(cone(), picture(), options(), silent)
    assert copies.to_device == [mirrors_of(made)[MESH_ENCODER].size]
    assert memory.residency.device_bytes == on_device
    made.unload()


def test_a_stage_that_is_cancelled_leaves_nothing_on_the_device(
    loaded: Trellis2Engine, checkpoint: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make(loaded, picture(), options())
    _, memory = use_fake_device(monkeypatch, torch)
    made = load(checkpoint, low_vram=True)
    host = pointers(made)

    def report(stage: str, step: int, steps: int) -> None:
        if (stage, step) == ("decode", 1):
            raise CancelledError(f"{steps}")

    with pytest.raises(CancelledError):
        made.shape(picture(), options(), report)
    assert memory.residency.device_bytes == 0
    assert pointers(made) == host
    assert same(expected, make(made, picture(), options()))
    made.unload()


def test_after_out_of_memory_all_models_return_to_the_device_when_memory_allows(
    loaded: Trellis2Engine, checkpoint: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make(loaded, picture(), options())
    copies, memory = use_fake_device(monkeypatch, torch)
    made = load(checkpoint)
    assert made._loaded is not None
    placement = made._loaded.placement
    placement._device, placement._memory = "fake", memory
    weights = memory.residency.bytes_of(placement._resident)
    memory.size, memory.peak = weights + 2 * 2**30, 2**28
    reports: list[str] = []
    handle = out_of_memory(torch, pipeline_of(made), "shape_slat_decoder", 1)
    shape = made.shape(picture(), options(), lambda stage, *_: reports.append(stage))
    handle.remove()
    assert placement.low_vram
    assert "retry" in reports
    assert shape.warnings == ()
    assert copies.to_host > 0  # once
    copies.to_host = 0
    for _ in range(3):
        assert same(expected, make(made, picture(), options()))
        assert placement.low_vram  # the same memory was not enough before
    memory.size += 2 * 2**30
    assert same(expected, make(made, picture(), options()))
    assert not placement.low_vram
    assert memory.residency.device_bytes == weights
    monkeypatch.setattr(DeviceMemory, "read", lambda _: {"used": weights + 1})
    assert made.device_memory() == {"used": weights + 1, "weights": weights}
    copies.to_device.clear()
    assert same(expected, make(made, picture(), options()))
    assert (copies.to_device, copies.to_host) == ([], 0)
    made.unload()


def test_unloading_frees_the_weights_on_both_sides(
    checkpoint: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake_device(monkeypatch, torch)
    made = load(checkpoint, low_vram=True)
    make(made, picture(), options())
    mirrors = [weakref.ref(mirror) for mirror in mirrors_of(made).values()]
    monkeypatch.undo()  # which holds the residency
    made.unload()
    assert [mirror() for mirror in mirrors] == [None] * len(mirrors)


def test_the_first_models_are_the_image_encoder_and_the_structures() -> None:
    assert PIPELINE_TYPES["512"].shape_order == (
        IMAGE_ENCODER,
        "sparse_structure_flow_model",
        "sparse_structure_decoder",
        "shape_slat_flow_model_512",
        "shape_slat_decoder",
    )
    assert PIPELINE_TYPES["1536_cascade"].shape_order == (
        IMAGE_ENCODER,
        IMAGE_ENCODER,
        "sparse_structure_flow_model",
        "sparse_structure_decoder",
        "shape_slat_flow_model_512",
        "shape_slat_decoder",
        "shape_slat_flow_model_1024",
        "shape_slat_decoder",
    )
    assert PIPELINE_TYPES["1024"].texture_order == ("tex_slat_flow_model_1024", "tex_slat_decoder")
