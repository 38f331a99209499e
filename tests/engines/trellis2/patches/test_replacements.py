"""Each replacement against TRELLIS.2's own function."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trellis2_engine import (
    CancelledError,
    make,
    needs_checkout,
    options,
    picture,
    pipeline_of,
)
from trellis2_server.engines.trellis2 import patches
from trellis2_server.engines.trellis2.patches import conditions, scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.engines.trellis2 import Trellis2Engine

pytestmark = [needs_checkout, pytest.mark.usefixtures("installed")]

EXACT = tuple(patch.name for patch in patches.PATCHES if patch.is_exact)
ALL = tuple(patch.name for patch in patches.PATCHES)
SAMPLER = {
    "guidance_strength": 3.0,
    "guidance_rescale": 0.5,
    "guidance_interval": (0.0, 1.0),
    "rescale_t": 3.0,
}


@pytest.fixture(scope="module")
def installed(loaded: Trellis2Engine) -> None:
    del loaded
    assert patches.install(choice=True) == ALL


@pytest.fixture
def sparse() -> Any:
    return importlib.import_module("trellis2.modules.sparse")


def tensor(torch: Any, sparse: Any, lengths: tuple[int, ...], *shape: int) -> Any:
    """Voxels of several pictures with random features."""
    rows = [
        torch.stack([torch.full((n,), i), *[torch.arange(n)] * 3], dim=1)
        for i, n in enumerate(lengths)
    ]
    coords = torch.cat(rows).int()
    return sparse.SparseTensor(torch.randn(len(coords), *shape), coords)


def both(call: Callable[[], Any], name: str) -> tuple[Any, Any]:
    """What a call returns with a patch and without."""
    with scope.sampling({name}):
        patched = call()
    return patched, call()


def test_modulations_are_broadcast_for_one_picture(torch: Any, sparse: Any) -> None:
    voxels = tensor(torch, sparse, (50,), 8)
    for other in (
        torch.randn(1, 8),
        torch.randn(8),
        torch.randn(1, 1),
        torch.tensor(2.0, dtype=torch.float64),
        torch.randn(1, 8, dtype=torch.float64),
        torch.randn(50, 8),  # a value for each voxel
        3.5,
        voxels,
    ):
        found, expected = both(lambda other=other: (voxels - other).feats, "modulation")
        assert found.dtype == expected.dtype
        assert found.equal(expected)
        found, expected = both(lambda other=other: (other * voxels).feats, "modulation")
        assert found.equal(expected)
    assert "batch_boardcast_map" in voxels.get_spatial_cache()  # by the calls without the patch
    fresh = tensor(torch, sparse, (50,), 8)
    with scope.sampling({"modulation"}):
        _ = fresh * torch.randn(1, 8)
    assert "batch_boardcast_map" not in fresh.get_spatial_cache()


def test_modulations_of_several_pictures_are_left_to_trellis2(torch: Any, sparse: Any) -> None:
    voxels, other = tensor(torch, sparse, (5, 9), 8), torch.randn(2, 8)
    found, expected = both(lambda: (voxels * other).feats, "modulation")
    assert found.equal(expected)
    assert not found[0].equal(voxels.feats[0] * other[1])


@pytest.mark.parametrize("lengths", [(40,), (7, 12)])
@pytest.mark.parametrize("backend", ["flash_attn", "flash_attn_3"])
def test_bounds_of_sequences_are_kept(
    torch: Any,
    sparse: Any,
    lengths: tuple[int, ...],
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flash: Any = importlib.import_module("flash_attn")
    third: Any = ModuleType("flash_attn_interface")
    third.flash_attn_varlen_func = flash.flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn_interface", third)
    monkeypatch.setattr(sparse.config, "ATTN", backend)
    seen: list[Any] = []
    original = flash.flash_attn_varlen_func

    def attend(q: Any, k: Any, v: Any, *bounds: Any) -> Any:
        seen.append(bounds[0])
        return original(q, k, v, *bounds)

    monkeypatch.setattr(flash, "flash_attn_varlen_func", attend)
    third.flash_attn_varlen_func = attend
    many = len(lengths)
    queries = tensor(torch, sparse, lengths, 2, 4)
    rows = tensor(torch, sparse, lengths, 3, 2, 4)
    for arguments in (
        (rows,),
        (queries, torch.randn(many, 6, 2, 2, 4)),
        (queries, tensor(torch, sparse, lengths, 2, 2, 4)),
        (queries, torch.randn(many, 6, 2, 4), torch.randn(many, 6, 2, 4)),
        (queries, queries * 2, queries * 3),
    ):

        def call(arguments: Any = arguments) -> Any:
            return sparse.sparse_scaled_dot_product_attention(*arguments).feats

        found, expected = both(call, "sequences")
        assert found.equal(expected)
    if backend == "flash_attn_3":
        seen.clear()
        with scope.sampling({"sequences"}):
            for _ in range(3):
                sparse.sparse_scaled_dot_product_attention(rows)
        assert seen[0] is seen[1] is seen[2]
        assert seen[0].dtype == torch.int32
        assert seen[0].tolist() == [0, *torch.tensor(lengths).cumsum(0).tolist()]


def test_wrong_arguments_of_attention_are_trellis2s_errors(torch: Any, sparse: Any) -> None:
    queries = tensor(torch, sparse, (4, 4), 2, 4)
    with scope.sampling({"sequences"}):
        with pytest.raises(AssertionError, match="Batch size mismatch"):
            sparse.sparse_scaled_dot_product_attention(queries, torch.randn(1, 6, 2, 2, 4))
        with pytest.raises(AssertionError, match="Invalid shape"):
            sparse.sparse_scaled_dot_product_attention(queries)


def test_times_are_embedded_with_the_same_bits(torch: Any) -> None:
    embedder: Any = importlib.import_module(
        "trellis2.models.sparse_structure_flow"
    ).TimestepEmbedder
    for times in (torch.rand(1) * 1000, torch.rand(3) * 1000, torch.arange(4)):
        for dim in (256, 30, 7):

            def call(times: Any = times, dim: int = dim) -> Any:
                return embedder.timestep_embedding(times, dim)

            found, expected = both(call, "timesteps")
            assert found.equal(expected)
    assert embedder.timestep_embedding(torch.ones(1), 4, 100).shape == (1, 4)


def test_the_time_of_a_step_has_the_same_bits(torch: Any, loaded: Trellis2Engine) -> None:
    sampler = pipeline_of(loaded).shape_slat_sampler
    flow: Any = importlib.import_module("trellis2.pipelines.samplers").FlowEulerSampler

    def model(_: Any, time: Any, cond: Any) -> Any:
        assert cond == "cond"
        return time

    for t in torch.rand(50, dtype=torch.float64).tolist():

        def call(t: float = t) -> Any:
            return flow._inference_model(sampler, model, torch.zeros(2, 3), t, "cond")

        found, expected = both(call, "timesteps")
        assert found.equal(expected)
        assert found.dtype == expected.dtype


def test_deviations_over_voxels_have_the_same_bits(torch: Any, sparse: Any) -> None:
    for lengths in ((500,), (3, 90)):
        voxels = tensor(torch, sparse, lengths, 6)

        def call(voxels: Any = voxels) -> Any:
            return voxels.std(dim=[1], keepdim=True)

        found, expected = both(call, "guidance")
        assert found.equal(expected)
        assert both(lambda v=voxels: v.sum(dim=1), "guidance")[0].shape == (len(lengths),)
        assert both(lambda v=voxels: v.mean(), "guidance")[0].dim() == 0


def test_a_step_does_not_wait_for_the_device(torch: Any, sparse: Any, loaded: Any) -> None:
    waits = importlib.import_module("tests.support.device_waits").counted_waits
    pipeline = pipeline_of(loaded)
    model, sampler = pipeline.models["shape_slat_flow_model_512"], pipeline.shape_slat_sampler
    cond = torch.randn(1, 20, 32)

    def step(names: tuple[str, ...]) -> dict[str, int]:
        """What a guided step, of two evaluations of two blocks, adds to a call."""
        counts: list[Any] = []
        monkeypatch.setattr(sampler, "patches", names)
        for steps in (1, 2):
            noise = tensor(torch, sparse, (60,), 32)
            with torch.inference_mode(), waits() as counted:
                sampler.sample(
                    model, noise, cond=cond, neg_cond=torch.zeros_like(cond), steps=steps, **SAMPLER
                )
            counts.append(counted)
        return dict(counts[1] - counts[0])

    with pytest.MonkeyPatch.context() as monkeypatch:
        # 3 copies a block and 2 an evaluation; 2 checks for each of 4 means
        assert step(()) == {"copies": 16, "_local_scalar_dense": 8}
        assert step(EXACT) == {}
        assert step(ALL) == {}


@pytest.mark.parametrize("name", ["shape_slat_flow_model_512", "sparse_structure_flow_model"])
def test_keys_and_values_are_computed_once_a_stage(
    torch: Any, sparse: Any, loaded: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = pipeline_of(loaded)
    model, sampler = pipeline.models[name], pipeline.shape_slat_sampler
    attention = model.blocks[1].cross_attn
    cond = torch.randn(1, 20, 32)
    calls: list[int] = []

    def sample(names: tuple[str, ...]) -> int:
        calls.clear()
        noise = tensor(torch, sparse, (60,), 32) if "slat" in name else torch.randn(1, 8, *[16] * 3)
        monkeypatch.setattr(sampler, "patches", names)
        with torch.inference_mode():
            sampler.sample(
                model, noise, cond=cond, neg_cond=torch.zeros_like(cond), steps=3, **SAMPLER
            )
        return len(calls)

    hook = attention.to_kv.register_forward_hook(lambda *_: calls.append(1))
    try:
        assert sample(()) == 6
        assert sample(("condition",)) == 2
        assert sample(()) == 6
        # The negative pass needs one row of values.
        assert sample(("condition", "negative")) == 2
        monkeypatch.setattr(conditions, "_LIMIT", 0)
        assert sample(("condition",)) == 6
    finally:
        hook.remove()


def test_a_condition_that_is_not_zero_has_no_constant(
    torch: Any, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = pipeline_of(loaded)
    model, sampler = pipeline.models["sparse_structure_flow_model"], pipeline.shape_slat_sampler
    noise, cond = torch.randn(1, 8, 16, 16, 16), torch.randn(1, 20, 32)
    results: list[Any] = []
    for names in ((), ("negative",)):
        monkeypatch.setattr(sampler, "patches", names)
        with torch.inference_mode():
            results.append(
                sampler.sample(model, noise, cond=cond, neg_cond=-cond, steps=2, **SAMPLER).samples
            )
    assert results[0].equal(results[1])


@pytest.mark.parametrize("error", [CancelledError, RuntimeError])
def test_nothing_is_kept_after_a_cancelled_or_failed_stage(
    loaded: Trellis2Engine, error: type[Exception]
) -> None:
    opened: list[Any] = []

    def report(stage: str, step: int, steps: int) -> None:
        del steps
        if stage == "shape" and step == 1:
            opened.append(scope.active("condition"))
            assert any(condition.kept for condition in opened[0].conditions)
            raise error

    with pytest.raises(error):
        make(loaded, picture(), options("512"), report)
    assert scope.active("condition") is None
    assert opened[0].conditions == []
    assert not opened[0]._kept


def test_memory_for_keys_and_values_is_a_share_of_the_device(torch: Any) -> None:
    class Cuda:
        @staticmethod
        def get_device_properties(device: Any) -> Any:
            assert device.index == 1
            return type("Properties", (), {"total_memory": 24 * 2**30})

    fake: Any = type("Torch", (), {"cuda": Cuda})
    assert conditions._budget(fake, torch.device("cuda:1")) == 384 * 2**20
    assert conditions._budget(fake, torch.device("mps")) == 2**30
