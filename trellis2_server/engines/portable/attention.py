"""Attention by PyTorch: `flash_attn`'s varlen functions, and TRELLIS.2's dense attention.

`attention_kernels` chooses the kernel. One sequence, or several of the same length, are one
call, and nothing is read back from the device. Sequences of different lengths are one call of
`varlen` where it can run, otherwise one call each; nothing is padded to the longest, and there
is no mask.

On some devices PyTorch has no kernel that avoids the matrix of scores: bfloat16 on NVIDIA's
Turing, many of AMD's GPUs, Apple's. There queries are split into chunks: at 49,152 tokens the
whole matrix would take 116 GB.

Does not know: positions, the meaning of heads, training.
"""

from __future__ import annotations

import importlib
import itertools
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.portable import attention_kernels as kernels

if TYPE_CHECKING:
    from collections.abc import Callable

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Largest matrix of scores at one time, float32, on devices that need it; bytes.
SCORE_BYTES: Final = 512 * 2**20
#: Queries at each end of a sequence, by which cuDNN's result is compared.
CHECKED: Final = 128
#: Largest relative difference of two kernels in half precision; theirs is about 4e-3.
TOLERANCE: Final = 0.03
#: Kernel → kernels to disable for its calls, so that PyTorch takes it.
_OTHERS: Final = {
    "flash": (),
    "pytorch": (),
    "efficient": ("flash",),
    "math": ("flash", "mem_efficient"),
    "cudnn": ("flash", "mem_efficient", "math"),
}


def dense_attention(*args: Tensor, **kwargs: Tensor) -> Tensor:
    """Attention of dense tensors, with the arguments of TRELLIS.2's function.

    Args:
        args: `qkv` [B, T, 3, H, D]; or `q` [B, Tq, H, D] and `kv` [B, Tk, 2, H, D]; or `q`, `k`
            and `v` [B, Tk, H, Dv].
        kwargs: the same by name.

    Returns:
        [B, Tq, H, Dv].

    Raises:
        TypeError: other arguments.
    """
    names = {1: ("qkv",), 2: ("q", "kv"), 3: ("q", "k", "v")}.get(len(args) + len(kwargs), ())
    given = dict(zip(names, args, strict=False)) | kwargs
    if not names or given.keys() != set(names):
        raise TypeError("dense_attention takes qkv, or q and kv, or q, k and v")
    if "qkv" in given:
        return attend(*given["qkv"].unbind(2))
    if "kv" in given:
        return attend(given["q"], *given["kv"].unbind(2))
    return attend(given["q"], given["k"], given["v"])


def flash_attn_varlen_qkvpacked_func(  # noqa: PLR0913, PLR0917 - flash_attn's signature
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,  # noqa: FBT001, FBT002
) -> Tensor:
    """Self-attention. `qkv` is [T, 3, H, D]; returns [T, H, D]."""
    q, k, v = qkv.unbind(1)
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout_p, softmax_scale, causal
    )


def flash_attn_varlen_kvpacked_func(  # noqa: PLR0913, PLR0917 - flash_attn's signature
    q: Tensor,
    kv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,  # noqa: FBT001, FBT002
) -> Tensor:
    """Cross-attention. `q` is [Tq, H, D], `kv` [Tk, 2, H, D]; returns [Tq, H, D]."""
    k, v = kv.unbind(1)
    return flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p,
        softmax_scale,
        causal,
    )


def flash_attn_varlen_func(  # noqa: PLR0913, PLR0917 - flash_attn's signature
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,  # noqa: FBT001, FBT002
) -> Tensor:
    """Attention of each sequence of queries to its own sequence of keys.

    Args:
        q: [Tq, H, D].
        k: [Tk, H, D].
        v: [Tk, H, Dv].
        cu_seqlens_q: int32 [B + 1], first row of each sequence of `q`, and the end.
        cu_seqlens_k: the same for `k` and `v`.
        max_seqlen_q: length of the longest sequence of `q`.
        max_seqlen_k: length of the longest sequence of `k`.
        dropout_p: must be 0.
        softmax_scale: factor of the scores; None: 1 / sqrt(D).
        causal: must be False.

    Returns:
        [Tq, H, Dv]; zeros for a query whose sequence has no keys.

    Raises:
        NotImplementedError: dropout or a causal mask is requested.
    """
    if dropout_p or causal:
        raise NotImplementedError("the stand-in has neither dropout nor a causal mask")
    batch = len(cu_seqlens_q) - 1
    # Row counts tell whether lengths are equal: bounds on a device are not read, which would wait.
    if batch == 1 or (
        q.shape[0] == batch * int(max_seqlen_q) and k.shape[0] == batch * int(max_seqlen_k)
    ):
        q, k, v = (x.unflatten(0, (batch, x.shape[0] // batch)) for x in (q, k, v))
        return attend(q, k, v, softmax_scale).flatten(0, 1)
    if not q.shape[0] or not k.shape[0]:
        return q.new_zeros(*q.shape[:2], v.shape[2])
    longest = int(max_seqlen_q), int(max_seqlen_k)
    if kernels.selector.kernel(q, v, batch, longest, is_packed=True) == "varlen":
        bounds = (cu_seqlens_q, cu_seqlens_k)
        out = _attempt("varlen", lambda: _packed(q, k, v, bounds, longest, softmax_scale))
        if out is not None:
            return out
    return _one_by_one(q, k, v, (cu_seqlens_q, cu_seqlens_k), softmax_scale)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Attention of sequences of equal lengths, by the kernel that is chosen for them.

    Args:
        q: [B, Tq, H, D].
        k: [B, Tk, H, D].
        v: [B, Tk, H, Dv].
        scale: factor of the scores; None: 1 / sqrt(D).

    Returns:
        [B, Tq, H, Dv]; zeros without keys.
    """
    batch, queries = q.shape[:2]
    keys = k.shape[1]
    if not q.numel() or not keys:
        return q.new_zeros(*q.shape[:3], v.shape[3])
    kernel = kernels.selector.kernel(q, v, batch, (queries, keys))
    if kernel in {"varlen", "cudnn"}:
        run = _as_packed if kernel == "varlen" else _by_cudnn
        out = _attempt(kernel, lambda: run(q, k, v, scale))
        return attend(q, k, v, scale) if out is None else out
    rows = (x.transpose(1, 2) for x in (q, k, v))
    return _in_chunks(*rows, scale=scale, kernel=kernel).transpose(1, 2)


def _attempt(kernel: kernels.Kernel, run: Callable[[], Tensor]) -> Tensor | None:
    """Return the result; None if PyTorch refuses, after which the kernel is not chosen again."""
    try:
        return run()
    except RuntimeError as error:
        # Out of memory and a broken device are subclasses, and the engine's matter. What is left
        # is raised before anything ran: no plan for the shape, or no memory for one.
        if type(error) not in {RuntimeError, NotImplementedError}:
            raise
        kernels.selector.refuse(kernel, error)
        return None


def _one_by_one(
    q: Tensor, k: Tensor, v: Tensor, bounds: tuple[Tensor, Tensor], scale: float | None
) -> Tensor:
    """Attention of packed sequences, [Tq, H, Dv], one call each."""
    distinct = bounds[:1] if bounds[0] is bounds[1] else bounds
    starts = torch.stack(distinct).tolist()  # waits for the device, once
    parts = [
        attend(q[None, a:b], k[None, c:d], v[None, c:d], scale)[0]
        for (a, b), (c, d) in zip(
            itertools.pairwise(starts[0]), itertools.pairwise(starts[-1]), strict=True
        )
    ]
    return torch.cat(parts)


def _as_packed(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """`attend` by FlashAttention 2 for packed sequences."""
    batch, queries = q.shape[:2]
    longest = (queries, k.shape[1])
    bounds = tuple(
        torch.arange(0, (batch + 1) * n, n, dtype=torch.int32, device=q.device) for n in longest
    )
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    return _packed(q, k, v, bounds, longest, scale).unflatten(0, (batch, queries))


def _packed(  # noqa: PLR0913, PLR0917 - as PyTorch's
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bounds: tuple[Tensor, ...],
    longest: tuple[int, int],
    scale: float | None,
) -> Tensor:
    """Attention of packed sequences, [Tq, H, D], by FlashAttention 2.

    A query without keys gets zeros from its kernel.
    """
    module: Any = importlib.import_module("torch.nn.attention.varlen")
    more = {} if scale is None else {"scale": scale}
    return module.varlen_attn(q, k, v, *bounds, *longest, **more)


def _by_cudnn(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """`attend` by cuDNN, in the layout in which it shares plans between lengths."""
    batch, queries, heads, size = q.shape
    step = kernels.selector.device(q.device).query_step
    rows = -(-queries // step) * step
    if rows != queries:
        padded = q.new_zeros(batch, rows, heads, size)
        padded[:, :queries] = q
        q = padded
    q, k, v = (x.contiguous().transpose(1, 2) for x in (q, k, v))
    out = _sdpa(q, k, v, scale, "cudnn")[:, :, :queries]
    is_capturing = q.is_cuda and torch.cuda.is_current_stream_capturing()
    if not is_capturing and kernels.selector.is_first(q.device, (queries, k.shape[2])):
        _compare(out, q[:, :, :queries], k, v, scale)
    return out.transpose(1, 2)


def _compare(out: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> None:
    """Compare cuDNN's result of new lengths, at both ends, with FlashAttention's.

    Earlier versions of cuDNN had wrong results at lengths that are no multiple of 128, and the
    plans that lengths share are experimental in PyTorch. Waits for the device.

    Raises:
        RuntimeError: they differ.
    """
    got, rows = (torch.cat([x[:, :, :CHECKED], x[:, :, -CHECKED:]], dim=2) for x in (out, q))
    expected = _sdpa(rows, k, v, scale, "flash").float()
    error = ((got.float() - expected).norm() / expected.norm().clamp(min=1e-6)).item()
    if not error <= TOLERANCE:  # also where it is not a number
        raise RuntimeError(f"its result differs by {error:.1%} at {q.shape[2]} tokens")


def _in_chunks(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, kernel: kernels.Kernel
) -> Tensor:
    """[B, H, Tq, Dv] of `q` [B, H, Tq, D], `k` and `v` [B, H, Tk, …]; never all scores at once."""
    batch, heads, queries, _ = q.shape
    chunk = max(1, SCORE_BYTES // (4 * batch * heads * k.shape[2]))
    if queries <= chunk or (kernel != "math" and _avoids_scores(q, k, v)):
        return _sdpa(q, k, v, scale, kernel)
    parts = [_sdpa(part, k, v, scale, kernel) for part in q.split(chunk, dim=2)]
    return torch.cat(parts, dim=2)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float | None, kernel: kernels.Kernel) -> Tensor:
    """PyTorch's attention of [B, H, T, D], by a kernel."""
    attention = torch.nn.functional.scaled_dot_product_attention
    disabled = _OTHERS[kernel]
    if not disabled:
        return attention(q, k, v, scale=scale)
    others = dict.fromkeys(disabled, False)
    try:
        kernels.enable(**others, **({"cudnn": True} if kernel == "cudnn" else {}))
        return attention(q, k, v, scale=scale)
    finally:
        kernels.enable(**dict.fromkeys(disabled, True), cudnn=False)


def _avoids_scores(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether PyTorch has a kernel for these tensors that does not store the scores."""
    if q.device.type != "cuda":
        return q.device.type == "cpu"
    cuda = torch.backends.cuda
    asked = cuda.SDPAParams(q, k, v, None, 0.0, False, False)  # noqa: FBT003 - PyTorch's
    return cuda.can_use_flash_attention(asked) or cuda.can_use_efficient_attention(asked)
