from __future__ import annotations

import itertools
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from tests.support.voxels import random_voxels  # noqa: E402
from trellis2_server.engines.portable import attention, sampling  # noqa: E402

Tensor = Any


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in float64, [Tq, H, D]."""
    q, k, v = (x.double().transpose(0, 1) for x in (q, k, v))
    weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)
    return (weights @ v).transpose(0, 1)


def starts(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


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
    monkeypatch.setattr(attention, "SCORE_BYTES", 4 * len(lengths) * 2 * max(lengths) * 7)
    parts = attention.flash_attn_varlen_qkvpacked_func(qkv, bounds, max(lengths))
    assert (whole - parts).abs().max() < 1e-6
    assert max(sizes) == 7
    assert sum(sizes) == max(lengths)


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
