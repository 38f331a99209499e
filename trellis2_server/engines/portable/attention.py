"""Attention over sequences of different lengths: `flash_attn`'s varlen functions.

Uses PyTorch's scaled dot product attention. One sequence, or several of the same length, are
passed directly; others are padded to the longest and masked. On some devices PyTorch has no
kernel that avoids the matrix of scores: bfloat16 on NVIDIA's Turing, many of AMD's GPUs,
Apple's. There queries are split into chunks: at 49,152 tokens the whole matrix would take
116 GB.

Does not know: positions, the meaning of heads, training.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Largest matrix of scores at one time, float32, on devices that need it; bytes.
SCORE_BYTES: Final = 512 * 2**20


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
    longest_q, longest_k = int(max_seqlen_q), int(max_seqlen_k)
    if q.shape[0] == batch * longest_q and k.shape[0] == batch * longest_k and longest_k:
        q, k, v = (x.view(batch, -1, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        return _attend(q, k, v, None, softmax_scale).transpose(1, 2).flatten(0, 1)
    if not k.shape[0]:
        return q.new_zeros(*q.shape[:2], v.shape[2])
    from_q, _ = _padding(cu_seqlens_q, longest_q, q.shape[0])
    from_k, is_key = _padding(cu_seqlens_k, longest_k, k.shape[0])
    out = _attend(
        q[from_q].transpose(1, 2),
        k[from_k].transpose(1, 2),
        v[from_k].transpose(1, 2),
        is_key[:, None, None, :],
        softmax_scale,
    ).transpose(1, 2)
    starts = cu_seqlens_q.long()
    sequence = torch.repeat_interleave(
        torch.arange(batch, device=q.device), starts.diff(), output_size=q.shape[0]
    )
    place = torch.arange(q.shape[0], device=q.device) - starts[sequence]
    picked = out[sequence, place]
    has_keys = (cu_seqlens_k.diff() > 0)[sequence]
    return torch.where(has_keys[:, None, None], picked, picked.new_zeros(()))


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """[B, H, Tq, Dv] of `q` [B, H, Tq, D], `k` and `v` [B, H, Tk, …], `mask` [B, 1, 1, Tk]."""
    attend = torch.nn.functional.scaled_dot_product_attention
    batch, heads, queries, _ = q.shape
    chunk = max(1, SCORE_BYTES // (4 * batch * heads * k.shape[2]))
    if queries <= chunk or _avoids_scores(q, k, v, mask):
        return attend(q, k, v, attn_mask=mask, scale=scale)
    parts = [attend(part, k, v, attn_mask=mask, scale=scale) for part in q.split(chunk, dim=2)]
    return torch.cat(parts, dim=2)


def _avoids_scores(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> bool:
    """Whether PyTorch has a kernel for these tensors that does not store the scores."""
    if q.device.type != "cuda":
        return q.device.type == "cpu"
    cuda = torch.backends.cuda
    asked = cuda.SDPAParams(q, k, v, mask, 0.0, False, False)  # noqa: FBT003 - PyTorch's
    return cuda.can_use_flash_attention(asked) or cuda.can_use_efficient_attention(asked)


def _padding(cu_seqlens: Tensor, longest: int, total: int) -> tuple[Tensor, Tensor]:
    """Row of each position in a padded batch, int64 [B, longest], and whether there is one."""
    starts = cu_seqlens.long()
    place = torch.arange(longest, device=starts.device)
    rows = starts[:-1, None] + place
    return rows.clamp(max=total - 1), rows < starts[1:, None]
