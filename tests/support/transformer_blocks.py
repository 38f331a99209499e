"""Transformer blocks with the attributes of TRELLIS.2's, dense and on sparse tensors."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

torch: Any = importlib.import_module("torch")
nn: Any = torch.nn
functional: Any = nn.functional
Tensor = Any


@dataclasses.dataclass(eq=False)
class Sparse:
    """Features of voxels, of one picture or more."""

    feats: Tensor
    coords: Tensor
    pictures: int = 1
    cache: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.pictures, *self.feats.shape[1:])

    def replace(self, feats: Tensor) -> Sparse:
        return dataclasses.replace(self, feats=feats)

    def get_spatial_cache(self, key: str) -> Any:
        return self.cache.get(key)

    def register_spatial_cache(self, key: str, value: Any) -> None:
        self.cache[key] = value


def rows(x: Any) -> Tensor:
    """[T, …] of a sparse tensor, or of [1, T, …]."""
    return x.feats if isinstance(x, Sparse) else x.flatten(0, 1)


def like(x: Any, value: Tensor) -> Any:
    return x.replace(value) if isinstance(x, Sparse) else value.unflatten(0, x.shape[:2])


def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B, T, H, D] of three such tensors."""
    q, k, v = (value.transpose(1, 2) for value in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def sparse_scaled_dot_product_attention(qkv: Sparse) -> Sparse:
    """Sparse tensor [T, H, D] of one [T, 3, H, D]."""
    return qkv.replace(scaled_dot_product_attention(*qkv.feats[None].unbind(2))[0])


class Norm(nn.LayerNorm):
    """In float32."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class HeadNorm(nn.Module):
    """Of vectors of queries or keys."""

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(heads, size) + 0.5)
        self.scale = size**0.5

    def forward(self, x: Tensor) -> Tensor:
        return (functional.normalize(x.float(), dim=-1) * self.gamma * self.scale).to(x.dtype)


class Rope(nn.Module):
    """Rotations by the three coordinates; the last channels are not rotated."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        count = head_dim // 2 // 3
        self.freqs = 10000.0 ** -(torch.arange(count) / count)

    def _get_phases(self, indices: Tensor) -> Tensor:
        angles = torch.outer(indices, self.freqs)
        return torch.polar(torch.ones_like(angles), angles)

    def phases(self, coords: Tensor) -> Tensor:
        """Complex [T, D / 2]."""
        phases = self._get_phases(coords.reshape(-1)).reshape(len(coords), -1)
        unused = phases.new_ones(len(coords), self.head_dim // 2 - phases.shape[1])
        return torch.cat([phases, unused], dim=1)


def rotate(x: Tensor, phases: Tensor) -> Tensor:
    """Vectors [T, H, D], rotated."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * phases[:, None]).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Self-attention, or cross-attention to [1, P, C]."""

    attn_mode = "full"

    def __init__(self, channels: int, heads: int, *, own: bool, norm: bool, rope: bool) -> None:
        super().__init__()
        self.channels, self.num_heads, self.own = channels, heads, own
        self.qk_rms_norm, self.use_rope = norm, rope
        if own:
            self.to_qkv = nn.Linear(channels, 3 * channels)
        else:
            self.to_q, self.to_kv = nn.Linear(channels, channels), nn.Linear(channels, 2 * channels)
        self.to_out = nn.Linear(channels, channels)
        if norm:
            self.q_rms_norm = HeadNorm(heads, channels // heads)
            self.k_rms_norm = HeadNorm(heads, channels // heads)
        if rope:
            self.rope = Rope(channels // heads)

    def forward(self, x: Any, context: Any = None, phases: Any = None) -> Any:
        split = (self.num_heads, self.channels // self.num_heads)
        if self.own:
            q, k, v = self.to_qkv(rows(x)).unflatten(-1, (3, *split)).unbind(1)
        else:
            q = self.to_q(rows(x)).unflatten(-1, split)
            k, v = self.to_kv(rows(context)).unflatten(-1, (2, *split)).unbind(1)
        if self.qk_rms_norm:
            q, k = self.q_rms_norm(q), self.k_rms_norm(k)
        if self.use_rope:
            phases = self.rope.phases(x.coords[:, 1:]) if phases is None else phases
            q, k = rotate(q, phases), rotate(k, phases)
        out = scaled_dot_product_attention(q[None], k[None], v[None])[0]
        return like(x, self.to_out(out.flatten(1)))


class FeedForward(nn.Sequential):
    """Of each token."""

    def forward(self, x: Any) -> Any:
        return like(x, super().forward(rows(x)))


class Block(nn.Module):
    """Self-attention, cross-attention and a feed-forward network, modulated."""

    use_checkpoint = False

    def __init__(
        self,
        channels: int = 48,
        heads: int = 2,
        *,
        share_mod: bool = True,
        norm: bool = True,
        rope: bool = True,
    ) -> None:
        super().__init__()
        self.share_mod = share_mod
        self.norm1 = Norm(channels, eps=1e-6, elementwise_affine=False)
        self.norm2 = Norm(channels, eps=1e-6)
        self.norm3 = Norm(channels, eps=1e-6, elementwise_affine=False)
        self.self_attn = Attention(channels, heads, own=True, norm=norm, rope=rope)
        self.cross_attn = Attention(channels, heads, own=False, norm=norm, rope=False)
        self.mlp = FeedForward(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )
        if share_mod:
            self.modulation = nn.Parameter(torch.randn(6 * channels) / 4)
        else:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, 6 * channels))
        self.calls = 0

    def forward(self, x: Any, mod: Tensor, context: Any, phases: Any = None) -> Any:
        self.calls += 1
        made = self.modulation + mod if self.share_mod else self.adaLN_modulation(mod)
        shift, scale, gate, shift3, scale3, gate3 = made.to(mod.dtype).chunk(6, dim=1)
        h = self.norm1(rows(x)) * (1 + scale) + shift
        h = rows(self.self_attn(like(x, h), phases=phases)) * gate
        x = like(x, rows(x) + h)
        x = like(x, rows(x) + rows(self.cross_attn(like(x, self.norm2(rows(x))), context)))
        h = self.norm3(rows(x)) * (1 + scale3) + shift3
        return like(x, rows(x) + rows(self.mlp(like(x, h))) * gate3)


class FlowModel(nn.Module):
    """Blocks of one kind, in a dtype as in TRELLIS.2: norms stay in float32."""

    def __init__(self, count: int = 2, dtype: Any = torch.float32, **kind: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(**kind) for _ in range(count))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)
        self.dtype = dtype
        self.requires_grad_(requires_grad=False)

    def forward(self, x: Any, mod: Tensor, context: Any, phases: Any = None) -> Any:
        for block in self.blocks:
            x = block(x, mod, context, *(() if phases is None else (phases,)))
        return x


def inputs(model: FlowModel, tokens: int, *, sparse: bool = True, seed: int = 0) -> tuple[Any, ...]:
    """Arguments of a model with 48 channels."""
    make = torch.Generator().manual_seed(seed)
    block = model.blocks[0]
    mod = torch.randn(1, 6 * 48 if block.share_mod else 48, generator=make).to(model.dtype)
    feats = torch.randn(tokens, 48, generator=make).to(model.dtype)
    context = torch.randn(1, 9, 48, generator=make).to(model.dtype)
    coords = torch.randint(0, 30, (tokens, 4), generator=make)
    if sparse:
        return Sparse(feats, coords), mod, context
    rope = block.self_attn.use_rope
    return (
        feats[None],
        mod,
        context,
        *([block.self_attn.rope.phases(coords[:, 1:])] if rope else []),
    )
