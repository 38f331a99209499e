from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from tests.support.attention import softmax_attention, starts  # noqa: E402
from tests.support.voxels import random_voxels  # noqa: E402
from trellis2_server.engines.portable import attention, sampling  # noqa: E402

Tensor = Any


@pytest.mark.parametrize(
    ("q_lengths", "k_lengths"),
    [([50], [70]), ([20, 20, 20], [7, 7, 7]), ([3, 40, 1], [50, 2, 9]), ([5, 4], [0, 6])],
)
def test_attention_equals_a_softmax_for_each_sequence(
    q_lengths: list[int], k_lengths: list[int]
) -> None:
    torch.manual_seed(4)
    q = torch.randn(sum(q_lengths), 3, 16)
    kv = torch.randn(sum(k_lengths), 2, 3, 16)
    out = attention.flash_attn_varlen_kvpacked_func(
        q, kv, starts(q_lengths), starts(k_lengths), max(q_lengths), max(k_lengths)
    )
    k, v = kv.unbind(1)
    for i, (a, b) in enumerate(zip(q_lengths, k_lengths, strict=True)):
        rows = slice(starts(q_lengths)[i], starts(q_lengths)[i] + a)
        keys = slice(starts(k_lengths)[i], starts(k_lengths)[i] + b)
        expected = softmax_attention(q[rows], k[keys], v[keys]) if b else torch.zeros(a, 3, 16)
        assert (out[rows] - expected).abs().max() < 1e-6


def test_packed_self_attention_equals_the_unpacked_one() -> None:
    torch.manual_seed(5)
    qkv = torch.randn(60, 3, 2, 8)
    bounds = starts([25, 35])
    out = attention.flash_attn_varlen_qkvpacked_func(qkv, bounds, 35)
    for rows in (slice(0, 25), slice(25, 60)):
        assert (out[rows] - softmax_attention(*qkv[rows].unbind(1))).abs().max() < 1e-6


@pytest.mark.parametrize("lengths", [[60], [20, 40]])
def test_attention_is_the_same_in_chunks(
    lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    qkv, bounds = torch.randn(60, 3, 2, 8), starts(lengths)
    whole = attention.flash_attn_varlen_qkvpacked_func(qkv, bounds, max(lengths))
    sizes: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def noted(q: Tensor, *args: Tensor, **more: Tensor) -> Tensor:
        sizes.append(q.shape[2])
        return attend(q, *args, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    monkeypatch.setattr(attention, "_avoids_scores", lambda *_: False)
    monkeypatch.setattr(attention, "SCORE_BYTES", 4 * 2 * max(lengths) * 7)
    parts = attention.flash_attn_varlen_qkvpacked_func(qkv, bounds, max(lengths))
    assert (whole - parts).abs().max() < 1e-6
    # A shorter sequence has fewer keys, so more of its queries fit.
    assert sizes == {60: [7] * 8 + [4], 20: [14, 6] + [7] * 5 + [5]}[lengths[0]]


def test_pytorch_accepts_the_question_for_its_kernels() -> None:
    q = torch.randn(1, 2, 8, 16)
    cuda = torch.backends.cuda
    requested = cuda.SDPAParams(q, q, q, None, 0.0, False, False)  # noqa: FBT003 - PyTorch's
    assert cuda.can_use_flash_attention(requested) in {True, False}
    assert cuda.can_use_efficient_attention(requested) in {True, False}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attention_and_sampling_keep_half_precision(dtype: Any) -> None:
    torch.manual_seed(5)
    qkv = torch.randn(60, 3, 2, 8).to(dtype)
    for lengths in ([60], [25, 35]):
        bounds = starts(lengths)
        out = attention.flash_attn_varlen_qkvpacked_func(qkv, bounds, max(lengths))
        expected = torch.cat(
            [softmax_attention(*qkv[a:b].unbind(1)) for a, b in itertools.pairwise(bounds.tolist())]
        )
        assert out.dtype == dtype
        assert (out - expected).norm() / expected.norm() < 8e-3
    coords = random_voxels(5, 2.0)
    feats = torch.randn(len(coords), 6).to(dtype)
    points = torch.rand(1, 50, 3) * 4 + 0.5
    out = sampling.grid_sample_3d(feats, coords, (), points)
    expected = sampling.grid_sample_3d(feats.float(), coords, (), points)
    assert out.dtype == dtype
    assert (out - expected).norm() / expected.norm() < 8e-3


def test_a_causal_mask_is_an_error() -> None:
    qkv = torch.randn(4, 3, 1, 8)
    with pytest.raises(NotImplementedError, match="causal"):
        attention.flash_attn_varlen_qkvpacked_func(qkv, starts([4]), 4, causal=True)


class Sizes(TorchDispatchMode):
    """Notes the size of each new tensor, and each value that is read back."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        self.reads += "_local_scalar_dense" in str(func)
        return out


def test_sequences_of_different_lengths_are_neither_padded_nor_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(6)
    q_lengths, k_lengths = [2, 300, 1, 2, 0], [300, 3, 2, 0, 5]
    q, kv = torch.randn(305, 2, 8), torch.randn(310, 2, 2, 8)
    masks: list[Any] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def noted(*args: Tensor, attn_mask: Tensor = None, **more: Any) -> Tensor:
        masks.append(attn_mask)
        return attend(*args, attn_mask=attn_mask, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    with Sizes() as sizes:
        out = attention.flash_attn_varlen_kvpacked_func(
            q, kv, starts(q_lengths), starts(k_lengths), 300, 300
        )
    assert masks == [None] * 3
    assert sizes.largest <= kv.numel()  # one padded tensor of five sequences has 5 * 300 rows
    assert (out[303:] == 0).all()
    assert (out[:2] - softmax_attention(q[:2], *kv[:300].unbind(1))).abs().max() < 1e-6


def test_bounds_are_not_read_where_row_counts_tell_the_lengths() -> None:
    qkv = torch.randn(60, 3, 2, 8)
    for lengths in ([60], [20, 20, 20]):
        bounds = starts(lengths).to("meta")  # has no values
        out = attention.flash_attn_varlen_qkvpacked_func(qkv, bounds, max(lengths))
        assert torch.equal(
            out, attention.flash_attn_varlen_qkvpacked_func(qkv, starts(lengths), max(lengths))
        )


def test_the_length_of_one_sequence_is_not_read_from_the_device() -> None:
    qkv = torch.randn(60, 3, 2, 8)
    longest: Any = torch.tensor(60, device="meta")  # TRELLIS.2's windows give a tensor
    out = attention.flash_attn_varlen_qkvpacked_func(qkv, starts([60]), longest)
    assert (out - softmax_attention(*qkv.unbind(1))).abs().max() < 1e-6


def test_bounds_of_different_lengths_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Tensor] = []
    tolist = torch.Tensor.tolist

    def noted(tensor: Tensor) -> Any:
        reads.append(tensor.shape)
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", noted)
    qkv = torch.randn(60, 3, 2, 8)
    with Sizes() as sizes:
        attention.flash_attn_varlen_qkvpacked_func(qkv, starts([20, 30, 10]), 30)
        attention.flash_attn_varlen_kvpacked_func(
            qkv[:, 0], qkv[:, 1:], starts([20, 30, 10]), starts([1, 2, 57]), 30, 57
        )
    assert reads == [(1, 4), (2, 4)]
    assert sizes.reads == 0


def test_dense_attention_takes_the_arguments_of_trellis2() -> None:
    torch.manual_seed(7)
    q, k, v = torch.randn(3, 2, 20, 4, 8).double().unbind(0)
    expected = torch.stack([softmax_attention(*x) for x in zip(q, k, v, strict=True)])
    kv, qkv = torch.stack([k, v], 2), torch.stack([q, k, v], 2)
    for out in (
        attention.dense_attention(qkv),
        attention.dense_attention(qkv=qkv),
        attention.dense_attention(q, kv),
        attention.dense_attention(q, kv=kv),
        attention.dense_attention(q, k, v),
        attention.dense_attention(q, k, v=v),
    ):
        assert (out - expected).abs().max() < 1e-12
    for wrong in ({}, {"q": q}, {"q": q, "k": k}, dict.fromkeys("qkvw", q)):
        with pytest.raises(TypeError, match="qkv"):
            attention.dense_attention(**wrong)


@pytest.mark.parametrize(("batch", "keys"), [(1, 70), (3, 70), (2, 0)])
def test_attention_of_equal_lengths_equals_a_softmax(batch: int, keys: int) -> None:
    torch.manual_seed(8)
    q = torch.randn(batch, 50, 4, 8)
    k, v = torch.randn(2, batch, keys, 4, 8).unbind(0)
    out = attention.attend(q, k, v)
    for i in range(batch):
        expected = softmax_attention(q[i], k[i], v[i]) if keys else torch.zeros(50, 4, 8)
        assert (out[i] - expected).abs().max() < 1e-6


@pytest.mark.parametrize("usable", [(), ("flash",), ("efficient",), ("flash", "efficient")])
def test_scores_are_avoided_on_a_gpu_if_either_kernel_takes_the_tensors(
    usable: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch decides, for these tensors: no mask, no dropout, not causal, no groups."""
    asked: list[object] = []
    cuda = torch.backends.cuda
    monkeypatch.setattr(cuda, "SDPAParams", lambda *arguments: asked.append(arguments))
    for kernel in ("flash", "efficient"):
        is_usable = kernel in usable
        name = f"can_use_{kernel}_attention"
        monkeypatch.setattr(cuda, name, lambda _, is_usable=is_usable: is_usable)
    q, k, v = (SimpleNamespace(device=torch.device("cuda")) for _ in range(3))
    assert attention._avoids_scores(q, k, v) == bool(usable)
    assert asked == [(q, k, v, None, 0.0, False, False)]
    q.device = torch.device("mps")
    assert not attention._avoids_scores(q, k, v)
    q.device = torch.device("cpu")
    assert attention._avoids_scores(q, k, v)
