from __future__ import annotations

import itertools
import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from tests.support.voxels import random_voxels  # noqa: E402
from trellis2_server.engines.portable import (  # noqa: E402
    attention,
    attention_kernels,
    sampling,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Tensor = Any

H100 = attention_kernels.Device("cuda", (9, 0), (2, 13), 91900, shares_plans=True, has_varlen=True)
A100 = attention_kernels.Device("cuda", (8, 0), (2, 13), 91900, has_varlen=True)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Function that has tensors on the CPU treated as on another device."""

    def choose(device: attention_kernels.Device, setting: Any = "auto") -> None:
        selector = attention_kernels.Selector(setting, lambda _: device)
        monkeypatch.setattr(attention_kernels, "selector", selector)

    is_enabled = torch.backends.cuda.cudnn_sdp_enabled()
    attention_kernels.enable(cudnn=False)  # as `configure` leaves it
    yield choose
    torch.backends.cuda.enable_cudnn_sdp(is_enabled)


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


def fake_varlen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Put a float64 `varlen_attn` in; return its calls: bounds and maxima."""
    calls: list[tuple[Any, ...]] = []

    def varlen_attn(q: Tensor, k: Tensor, v: Tensor, *where: Any) -> Tensor:
        of_q, of_k, max_q, max_k = where
        assert of_q.dtype == of_k.dtype == torch.int32
        calls.append((of_q.tolist(), of_k.tolist(), max_q, max_k))
        pairs = zip(itertools.pairwise(calls[-1][0]), itertools.pairwise(calls[-1][1]), strict=True)
        parts = [softmax_attention(q[a:b], k[c:d], v[c:d]) for (a, b), (c, d) in pairs]
        return torch.cat(parts).to(q.dtype)

    module: Any = ModuleType("torch.nn.attention.varlen")
    module.varlen_attn = varlen_attn
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    return calls


def test_packed_sequences_are_one_call_of_varlen_with_exact_maxima(
    monkeypatch: pytest.MonkeyPatch, use: Callable[..., None]
) -> None:
    torch.manual_seed(9)
    qkv = torch.randn(65, 3, 2, 8).bfloat16()
    bounds = starts([25, 37, 3])
    expected = attention.flash_attn_varlen_qkvpacked_func(qkv, bounds, 37)
    calls = fake_varlen(monkeypatch)
    use(A100)
    out = attention.flash_attn_varlen_qkvpacked_func(qkv, bounds, 37)
    assert (out - expected).norm() / expected.norm() < 8e-3
    assert calls == [([0, 25, 62, 65], [0, 25, 62, 65], 37, 37)]


def test_equal_lengths_reach_varlen_packed(
    monkeypatch: pytest.MonkeyPatch, use: Callable[..., None]
) -> None:
    torch.manual_seed(10)
    q = torch.randn(2, 30, 4, 8).bfloat16()
    k, v = torch.randn(2, 2, 50, 4, 8).bfloat16().unbind(0)
    expected = attention.attend(q, k, v)
    calls = fake_varlen(monkeypatch)
    use(A100, "varlen")
    out = attention.attend(q, k, v)
    assert out.shape == expected.shape
    assert (out - expected).norm() / expected.norm() < 8e-3
    assert calls == [([0, 30, 60], [0, 50, 100], 30, 50)]


def fake_sdpa(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Note the calls of PyTorch's attention: enabled kernels, lengths and layouts."""
    calls: list[dict[str, Any]] = []

    def noted(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        assert scale is None
        calls.append(
            {
                "enabled": enabled(),
                "lengths": (q.shape[2], k.shape[2]),
                "is_contiguous": all(x.transpose(1, 2).is_contiguous() for x in (q, k, v)),
            }
        )
        weights = torch.softmax(q.double() @ k.double().mT / q.shape[-1] ** 0.5, dim=-1)
        return (weights @ v.double()).to(q.dtype)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    return calls


def enabled() -> set[str]:
    names = ("cudnn", "flash", "mem_efficient", "math")
    return {n for n in names if getattr(torch.backends.cuda, f"{n}_sdp_enabled")()}


@pytest.mark.parametrize(
    ("version", "rows"), [((2, 13), 8200), ((2, 14), 5 * attention_kernels.QUERY_STEP)]
)
def test_long_sequences_reach_cudnn_alone_in_the_layout_that_shares_plans(
    version: tuple[int, int],
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[..., None],
) -> None:
    torch.manual_seed(11)
    q = torch.randn(8200, 3, 1, 8)[:, 0].bfloat16()
    kv = torch.randn(9, 2, 1, 8).bfloat16()
    lengths = (starts([8200]), starts([9]), 8200, 9)
    expected = attention.flash_attn_varlen_kvpacked_func(q, kv, *lengths)
    calls = fake_sdpa(monkeypatch)
    use(attention_kernels.Device(H100.kind, H100.capability, version, H100.cudnn, True))  # noqa: FBT003
    out = attention.flash_attn_varlen_kvpacked_func(q, kv, *lengths)
    assert calls == [{"enabled": {"cudnn"}, "lengths": (rows, 9), "is_contiguous": True}]
    assert out.shape == expected.shape
    assert (out - expected).norm() / expected.norm() < 8e-3
    assert enabled() == {"flash", "mem_efficient", "math"}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("auto", {"flash", "mem_efficient", "math"}),
        ("flash", {"flash", "mem_efficient", "math"}),
        ("efficient", {"mem_efficient", "math"}),
        ("math", {"math"}),
    ],
)
def test_other_kernels_are_disabled_during_a_call_only(
    setting: str, expected: set[str], monkeypatch: pytest.MonkeyPatch, use: Callable[..., None]
) -> None:
    calls = fake_sdpa(monkeypatch)
    use(A100, setting)
    attention.attend(*torch.randn(3, 1, 20, 2, 8).bfloat16().unbind(0))
    assert [call["enabled"] for call in calls] == [expected]
    assert enabled() == {"flash", "mem_efficient", "math"}


def test_each_sequence_of_a_long_batch_gets_its_own_kernel(
    monkeypatch: pytest.MonkeyPatch, use: Callable[..., None]
) -> None:
    monkeypatch.setattr(attention_kernels, "LONG", 16)
    calls = fake_sdpa(monkeypatch)
    use(H100)
    qkv = torch.randn(30, 3, 1, 8).bfloat16()
    attention.flash_attn_varlen_qkvpacked_func(qkv, starts([5, 20, 5]), 20)
    assert [(call["lengths"], "cudnn" in call["enabled"]) for call in calls] == [
        ((5, 5), False),
        ((20, 20), True),
        ((5, 5), False),
    ]


def refuse(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[set[str]]:
    """Have cuDNN's calls fail; return the kernels that were enabled in each call."""
    calls: list[set[str]] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def failing(*args: Tensor, scale: float | None = None) -> Tensor:
        calls.append(enabled())
        if "cudnn" in calls[-1]:
            raise error
        return attend(*args, scale=scale)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", failing)
    return calls


def test_a_kernel_that_pytorch_refuses_is_replaced_with_one_warning(
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = refuse(monkeypatch, RuntimeError("No available kernel"))
    use(H100, "cudnn")
    q = torch.randn(1, 20, 2, 8).bfloat16()
    outs = [attention.attend(q, q, q) for _ in range(3)]
    assert [("cudnn" in call) for call in calls] == [True, False, False, False]
    assert torch.equal(outs[0], outs[2])
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1
    assert enabled() == {"flash", "mem_efficient", "math"}


def test_out_of_memory_is_not_taken_for_a_refusal(
    monkeypatch: pytest.MonkeyPatch, use: Callable[..., None]
) -> None:
    refuse(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    use(H100, "cudnn")
    q = torch.randn(1, 20, 2, 8).bfloat16()
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            attention.attend(q, q, q)


def test_varlen_that_fails_is_replaced_by_one_call_for_each_sequence(
    monkeypatch: pytest.MonkeyPatch, use: Callable[..., None]
) -> None:
    module: Any = ModuleType("torch.nn.attention.varlen")
    failures: list[None] = []

    def varlen_attn(*_: Any) -> Tensor:
        failures.append(None)
        raise NotImplementedError("no kernel for this backend")

    module.varlen_attn = varlen_attn
    qkv = torch.randn(60, 3, 2, 8).bfloat16()
    expected = attention.flash_attn_varlen_qkvpacked_func(qkv, starts([20, 40]), 40)
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    use(A100)
    for _ in range(2):
        out = attention.flash_attn_varlen_qkvpacked_func(qkv, starts([20, 40]), 40)
        assert torch.equal(out, expected)
    assert len(failures) == 1
