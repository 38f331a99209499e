from __future__ import annotations

from typing import Any

import pytest

from tests.support.fake_device import CountingCopies
from trellis2_server.engines.trellis2 import weight_mirror
from trellis2_server.engines.trellis2.weight_mirror import WeightMirror


def model(torch: Any) -> Any:
    """A model with several dtypes, a buffer, and a tensor without elements."""
    made = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3).half())
    made.register_buffer("phases", torch.polar(torch.ones(4), torch.arange(4.0)))
    made.register_buffer("nothing", torch.empty(0, 3))
    return made.requires_grad_(requires_grad=False)


def values(module: Any) -> dict[str, Any]:
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}


def pointers(module: Any) -> list[int]:
    return [tensor.data_ptr() for tensor in module.state_dict().values()]


def equal(torch: Any, one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        tensor.dtype == other[key].dtype and torch.equal(tensor, other[key])
        for key, tensor in one.items()
    )


def test_moving_to_the_device_is_one_copy_and_moving_back_is_none(torch: Any) -> None:
    module, copies = model(torch), CountingCopies(torch)
    before, objects = values(module), [id(p) for p in module.parameters()]
    mirror = WeightMirror(module, copies, is_on_device=False)
    mirror.keep_on_host()
    copies.to_host, host = 0, pointers(module)
    for _ in range(3):
        mirror.to_device()
        on_device = pointers(module)
        # `nothing` has no memory.
        assert not {p for p in on_device if p} & {p for p in host if p}
        assert equal(torch, before, values(module))
        mirror.to_device()
        assert pointers(module) == on_device
        mirror.to_host()
        assert pointers(module) == host
    assert copies.to_device == [mirror.size] * 3
    assert copies.to_host == 0
    assert equal(torch, before, values(module))
    assert [id(p) for p in module.parameters()] == objects


def test_a_copy_may_be_kept_or_made_ahead(torch: Any) -> None:
    copies = CountingCopies(torch)
    mirror = WeightMirror(model(torch), copies, is_on_device=False)
    mirror.copy_ahead()
    mirror.copy_ahead()
    assert (mirror.is_on_device, mirror.device_bytes) == (False, mirror.size)
    mirror.to_device()
    mirror.to_host(keep_copy=True)
    assert (mirror.is_on_device, mirror.device_bytes) == (False, mirror.size)
    mirror.to_device()
    mirror.to_host()
    assert mirror.device_bytes == 0
    assert copies.ahead == [True]


def test_weights_that_were_loaded_on_the_device_are_copied_to_the_host_once(torch: Any) -> None:
    module, copies = model(torch), CountingCopies(torch)
    before = values(module)
    mirror = WeightMirror(module, copies, is_on_device=True)
    assert mirror.device_bytes == mirror.size
    mirror.to_device()
    for _ in range(2):
        mirror.to_host()
        mirror.to_device()
    assert copies.to_host == sum(t.numel() * t.element_size() for t in before.values())
    assert len(copies.to_device) == 2
    assert equal(torch, before, values(module))


def test_weights_move_in_inference_mode_and_stay_usable_outside(torch: Any) -> None:
    module = model(torch)
    mirror = WeightMirror(module, CountingCopies(torch), is_on_device=False)
    with torch.inference_mode():
        mirror.to_device()
    assert not any(p.is_inference() for p in module.parameters())
    mirror.to_host()
    assert not any(p.is_inference() for p in module.parameters())


def test_a_copy_that_fails_leaves_the_model_on_the_host(torch: Any) -> None:
    module, copies = model(torch), CountingCopies(torch)
    before = values(module)
    mirror = WeightMirror(module, copies, is_on_device=False)
    copies.fails = 1
    with pytest.raises(torch.OutOfMemoryError):
        mirror.to_device()
    assert (mirror.is_on_device, mirror.device_bytes) == (False, 0)
    assert equal(torch, before, values(module))


def test_weights_are_aligned_in_few_slabs(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_mirror, "_SLAB_BYTES", 1024)
    places, lengths = weight_mirror._pack([512, 1024, 512, 2048, 512])
    assert places == [(0, 0), (1, 0), (0, 512), (2, 0), (3, 0)]
    assert lengths == [1024, 1024, 2048, 512]
    module, copies = model(torch), CountingCopies(torch)
    before = values(module)
    mirror = WeightMirror(module, copies, is_on_device=False)
    mirror.to_device()
    mirror.to_host()
    assert mirror.size % 512 == 0
    assert equal(torch, before, values(module))
