"""Attention over sequences of different lengths: `flash_attn`'s varlen functions.

PyTorch's own scaled dot product attention does the work. One sequence, or several of one
length, go straight in; others are padded to the longest and masked. Where PyTorch has no
kernel that goes without the matrix of scores, as for bfloat16 on NVIDIA's Turing, for many
of AMD's cards and on Apple's, queries go in portions: at 49,152 tokens the whole matrix
would take 116 GB.

What this module does not know: positions, heads' meaning, training (dropout is refused).
"""

from __future__ import annotations

import importlib
from typing import Any, Final

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Most bytes of scores at one time, in float32, where they are written out at all.
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
        cu_seqlens_q: int32 [B + 1]: where each sequence of `q` begins, and the end.
        cu_seqlens_k: the same for `k` and `v`.
        max_seqlen_q: length of the longest.
        max_seqlen_k: length of the longest.
        dropout_p: must be 0.
        softmax_scale: 1 / sqrt(D) if None.
        causal: must be False.

    Returns:
        [Tq, H, Dv]; zeros for a query whose sequence has no keys.

    Raises:
        NotImplementedError: dropout or a causal mask is asked for.
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
    portion = max(1, SCORE_BYTES // (4 * batch * heads * k.shape[2]))
    if queries <= portion or _keeps_no_scores(q, k, v, mask):
        return attend(q, k, v, attn_mask=mask, scale=scale)
    parts = [attend(part, k, v, attn_mask=mask, scale=scale) for part in q.split(portion, dim=2)]
    return torch.cat(parts, dim=2)


def _keeps_no_scores(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> bool:
    """Whether PyTorch has a kernel for these that never writes the scores out."""
    if q.device.type != "cuda":
        return q.device.type == "cpu"
    cuda = torch.backends.cuda
    asked = cuda.SDPAParams(q, k, v, mask, 0.0, False, False)  # noqa: FBT003 - PyTorch's
    return cuda.can_use_flash_attention(asked) or cuda.can_use_efficient_attention(asked)


def _padding(cu_seqlens: Tensor, longest: int, total: int) -> tuple[Tensor, Tensor]:
    """Row for each place of a padded batch, int64 [B, longest], and which places are real."""
    starts = cu_seqlens.long()
    place = torch.arange(longest, device=starts.device)
    rows = starts[:-1, None] + place
    return rows.clamp(max=total - 1), rows < starts[1:, None]
