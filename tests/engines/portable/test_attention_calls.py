from __future__ import annotations

import itertools
import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from tests.support.attention import softmax_attention, starts  # noqa: E402
from trellis2_server.engines.portable import attention, attention_kernels  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Tensor = Any

H100 = attention_kernels.Device("cuda", (9, 0), (2, 13), 91900, shares_plans=True, has_varlen=True)
A100 = attention_kernels.Device("cuda", (8, 0), (2, 13), 91900, has_varlen=True)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Function that has tensors on the CPU treated as on another device."""

    def choose(device: attention_kernels.Device, setting: Any = "auto") -> None:
        def describe(_: Any) -> attention_kernels.Device:
            return device

        selector = attention_kernels.Selector(setting, describe)
        monkeypatch.setattr(attention_kernels, "selector", selector)

    is_enabled = torch.backends.cuda.cudnn_sdp_enabled()
    attention_kernels.enable(cudnn=False)  # as `configure` leaves it
    yield choose
    torch.backends.cuda.enable_cudnn_sdp(is_enabled)


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
    assert calls[0] == {"enabled": {"cudnn"}, "lengths": (rows, 9), "is_contiguous": True}
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
        ((40, 20), False),  # the comparison of both ends, which overlap here
        ((5, 5), False),
    ]


def test_cudnn_is_compared_with_flash_once_for_each_length(
    monkeypatch: pytest.MonkeyPatch, use: Callable[..., None]
) -> None:
    calls = fake_sdpa(monkeypatch)
    use(H100, "cudnn")
    for queries in (300, 300, 301, 300):
        q = torch.randn(1, queries, 2, 8).bfloat16()
        attention.attend(q, q, q)
    assert [call["lengths"] for call in calls if "cudnn" not in call["enabled"]] == [
        (2 * attention.CHECKED, 300),
        (2 * attention.CHECKED, 301),
    ]


def test_a_result_of_zeros_is_right_where_zeros_are_expected(
    monkeypatch: pytest.MonkeyPatch, use: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    fake_sdpa(monkeypatch)
    use(H100, "cudnn")
    q = torch.randn(1, 300, 2, 8).bfloat16()
    assert not attention.attend(q, q, torch.zeros_like(q)).any()
    assert not caplog.records


@pytest.mark.parametrize("wrong", [0.5, float("nan")])
def test_a_wrong_result_of_cudnn_is_replaced_and_cudnn_is_not_used_again(
    wrong: float,
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    q = torch.randn(1, 300, 2, 8).bfloat16()
    expected = attention.attend(q, q, q)
    attend = torch.nn.functional.scaled_dot_product_attention
    calls: list[set[str]] = []

    def broken(*args: Tensor, scale: float | None = None) -> Tensor:
        calls.append(enabled())
        if "cudnn" not in calls[-1]:
            return attend(*args, scale=scale)
        out = expected.transpose(1, 2).clone()
        out[:, :, -44:] += wrong  # the rows after the last multiple of 128
        return out

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", broken)
    use(H100, "cudnn")
    for _ in range(2):
        assert torch.equal(attention.attend(q, q, q), expected)
    assert sum("cudnn" in call for call in calls) == 1
    warnings: list[Any] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert ["at 300 tokens" in r.why for r in warnings] == [True]


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
