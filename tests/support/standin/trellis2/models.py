"""Models with TRELLIS.2's names and signatures, two layers deep."""

from __future__ import annotations

import itertools
from typing import Any

import flash_attn
import torch
from flex_gemm.ops.spconv import sparse_submanifold_conv3d
from o_voxel.convert import flexible_dual_grid_to_mesh
from torch import nn
from torch.nn import functional

from trellis2.modules.sparse import SparseTensor


class Mesh:
    """Vertices and faces."""

    def __init__(self, vertices: torch.Tensor, faces: torch.Tensor) -> None:
        self.vertices = vertices.float()
        self.faces = faces.int()


class SparseStructureFlowModel(nn.Module):
    """Velocity on a dense grid."""

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        model_channels: int,
        cond_channels: int,
        out_channels: int,
        **_: Any,
    ) -> None:
        super().__init__()
        self.resolution, self.in_channels = resolution, in_channels
        self.register_buffer("pos_emb", torch.randn(resolution**3, model_channels))
        self.input_layer = nn.Linear(in_channels, model_channels)
        self.time = nn.Linear(1, model_channels)
        self.cond = nn.Linear(cond_channels, model_channels)
        self.out_layer = nn.Linear(model_channels, out_channels)

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        h = self.input_layer(x.flatten(2).transpose(1, 2)) + self.pos_emb
        h = h + self.time(t[:, None] / 1000)[:, None] + self.cond(cond.mean(1, keepdim=True))
        h = self.out_layer(functional.layer_norm(h, h.shape[-1:]))
        return h.transpose(1, 2).reshape(x.shape)


class _ChannelNorm(nn.LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class _Up(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels * 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, d, h, w = x.shape
        x = self.conv(x).view(b, -1, 2, 2, 2, d, h, w)
        return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, -1, 2 * d, 2 * h, 2 * w)


class SparseStructureDecoder(nn.Module):
    """Latent grid → occupancy, four times finer."""

    def __init__(
        self, out_channels: int, latent_channels: int, channels: list[int], **_: Any
    ) -> None:
        super().__init__()
        self.input_layer = nn.Conv3d(latent_channels, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList(_Up(c) for c in channels[:-1])
        self.out_layer = nn.Sequential(
            _ChannelNorm(channels[-1]),
            nn.SiLU(),
            nn.Conv3d(channels[-1], out_channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.input_layer(x)
        for block in self.blocks:
            x = block(x)
        return self.out_layer(x)


class SLatFlowModel(nn.Module):
    """Velocity on sparse voxels, by self-attention and attention to the picture."""

    def __init__(  # noqa: PLR0913, PLR0917 - TRELLIS.2's
        self,
        resolution: int,
        in_channels: int,
        model_channels: int,
        cond_channels: int,
        out_channels: int,
        num_heads: int,
        **_: Any,
    ) -> None:
        super().__init__()
        del resolution
        self.in_channels, self.num_heads = in_channels, num_heads
        self.input_layer = nn.Linear(in_channels, model_channels)
        self.place = nn.Linear(4, model_channels)
        self.to_qkv = nn.Linear(model_channels, 3 * model_channels)
        self.to_kv = nn.Linear(cond_channels, 2 * model_channels)
        self.out_layer = nn.Linear(model_channels, out_channels)

    def forward(
        self,
        x: SparseTensor,
        t: torch.Tensor,
        cond: torch.Tensor,
        concat_cond: SparseTensor | None = None,
    ) -> SparseTensor:
        feats = x.feats if concat_cond is None else torch.cat([x.feats, concat_cond.feats], dim=1)
        place = torch.cat([x.coords[:, 1:] / 64, t.expand(len(feats), 1) / 1000], dim=1)
        h = self.input_layer(feats) + self.place(place)
        bounds = torch.tensor([0, len(h)], dtype=torch.int32, device=h.device)
        keys = torch.tensor([0, cond.shape[1]], dtype=torch.int32, device=h.device)
        qkv = self.to_qkv(h).view(len(h), 3, self.num_heads, -1)
        h = h + flash_attn.flash_attn_varlen_qkvpacked_func(qkv, bounds, len(h)).flatten(1)
        kv = self.to_kv(cond[0]).view(cond.shape[1], 2, self.num_heads, -1)
        q = h.view(len(h), self.num_heads, -1)
        h = h + flash_attn.flash_attn_varlen_kvpacked_func(
            q, kv, bounds, keys, len(h), cond.shape[1]
        ).flatten(1)
        return x.replace(self.out_layer(functional.layer_norm(h, h.shape[-1:])))


class _Convolution(nn.Module):
    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, 3, 3, 3, channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: SparseTensor) -> SparseTensor:
        out, x.cache["neighbors"] = sparse_submanifold_conv3d(
            x.feats, x.coords, (), self.weight, self.bias, x.cache.get("neighbors"), (1, 1, 1)
        )
        return x.replace(out)


class _UpBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, *, pred_subdiv: bool) -> None:
        super().__init__()
        self.conv = _Convolution(channels, out_channels)
        if pred_subdiv:
            self.to_subdiv = nn.Linear(channels, 8)

    def forward(self, x: SparseTensor, subdiv: Any = None) -> Any:
        own = hasattr(self, "to_subdiv")
        if own:
            subdiv = x.replace(self.to_subdiv(x.feats))
        if subdiv is None:
            coords, voxel, _ = x.finer[-1]
        else:
            voxel, child = subdiv.replace(subdiv.feats > 0).feats.nonzero(as_tuple=True)
            coords = x.coords[voxel]
            bits = torch.stack([child >> i & 1 for i in range(3)], dim=1).to(coords.dtype)
            coords = torch.cat([coords[:, :1], coords[:, 1:] * 2 + bits], dim=1)
        feats = functional.silu(x.feats)[voxel]
        out = self.conv(SparseTensor(feats, coords, None, x.finer[:-1]))
        return (out, subdiv) if own else out


class _DownBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _Convolution(channels, channels)
        self.merge = nn.Linear(8 * channels, out_channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        half = torch.cat([x.coords[:, :1], x.coords[:, 1:] // 2], dim=1)
        child = (x.coords[:, 1:] % 2) @ x.coords.new_tensor([1, 2, 4])
        coords, voxel = half.unique(dim=0, return_inverse=True)
        feats = functional.silu(self.conv(x).feats)
        slots = feats.new_zeros(len(coords), 8, feats.shape[1])
        slots[voxel, child.long()] = feats
        finer = (*x.finer, (x.coords, voxel, child))
        return SparseTensor(self.merge(slots.flatten(1)), coords, None, finer)


class FlexiDualGridVaeEncoder(nn.Module):
    """Voxels with dual vertices → latent voxels, sixteen times coarser."""

    def __init__(  # noqa: PLR0913, PLR0917 - TRELLIS.2's
        self,
        model_channels: list[int],
        latent_channels: int,
        num_blocks: list[int],
        block_type: list[str],
        down_block_type: list[str],
        block_args: list[dict[str, Any]],
        use_fp16: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        super().__init__()
        del num_blocks, block_type, down_block_type, block_args, use_fp16
        self.input_layer = nn.Linear(6, model_channels[0])
        pairs = itertools.pairwise(model_channels)
        self.blocks = nn.ModuleList(nn.ModuleList([_DownBlock(a, b)]) for a, b in pairs)
        self.blocks.append(nn.ModuleList())
        self.to_latent = nn.Linear(model_channels[-1], latent_channels)

    def forward(
        self,
        vertices: SparseTensor,
        intersected: SparseTensor,
        sample_posterior: bool = False,  # noqa: FBT001, FBT002
        return_raw: bool = False,  # noqa: FBT001, FBT002
    ) -> SparseTensor:
        del sample_posterior, return_raw
        both = torch.cat([vertices.feats, intersected.feats.float()], dim=1) - 0.5
        h = vertices.replace(self.input_layer(both))
        for level in self.blocks:
            for block in level:
                h = block(h)
        return h.replace(self.to_latent(functional.layer_norm(h.feats, h.feats.shape[-1:])))


class SparseUnetVaeDecoder(nn.Module):
    """Latent voxels → voxels sixteen times finer."""

    def __init__(  # noqa: PLR0913, PLR0917 - TRELLIS.2's
        self,
        out_channels: int,
        model_channels: list[int],
        latent_channels: int,
        num_blocks: list[int],
        block_type: list[str],
        up_block_type: list[str],
        block_args: list[dict[str, Any]],
        use_fp16: bool = False,  # noqa: FBT001, FBT002
        pred_subdiv: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        super().__init__()
        del num_blocks, block_type, up_block_type, block_args, use_fp16
        self.low_vram = False
        self.from_latent = nn.Linear(latent_channels, model_channels[0])
        pairs = itertools.pairwise(model_channels)
        self.blocks = nn.ModuleList(
            nn.ModuleList([_UpBlock(a, b, pred_subdiv=pred_subdiv)]) for a, b in pairs
        )
        self.blocks.append(nn.ModuleList())
        self.output_layer = nn.Linear(model_channels[-1], out_channels)

    def forward(
        self,
        x: SparseTensor,
        guide_subs: list[Any] | None = None,
        return_subs: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        h, subs = x.replace(self.from_latent(x.feats)), []
        for i, level in enumerate(self.blocks):
            for block in level:
                h = block(h, subdiv=None if guide_subs is None else guide_subs[i])
                if isinstance(h, tuple):
                    h, sub = h
                    subs.append(sub)
        h = h.replace(self.output_layer(functional.layer_norm(h.feats, h.feats.shape[-1:])))
        return (h, subs) if return_subs else h

    def upsample(self, x: SparseTensor, upsample_times: int) -> torch.Tensor:
        """Return the coordinates after that number of levels."""
        h = x.replace(self.from_latent(x.feats))
        for level in self.blocks[:upsample_times]:
            for block in level:
                h, _ = block(h)
        return h.coords


class FlexiDualGridVaeDecoder(SparseUnetVaeDecoder):
    """Latent voxels → mesh."""

    def __init__(self, resolution: int, **kwargs: Any) -> None:
        super().__init__(7, **kwargs)
        self.resolution = resolution

    def set_resolution(self, resolution: int) -> None:
        """Set the edge of the grid that is decoded next, voxels."""
        self.resolution = resolution

    def forward(self, x: SparseTensor, **kwargs: Any) -> Any:
        h, subs = super().forward(x, **kwargs)
        mesh = flexible_dual_grid_to_mesh(
            h.coords[:, 1:],
            h.feats[:, :3].sigmoid(),
            h.feats[:, 3:6] > 0,
            functional.softplus(h.feats[:, 6:]),
            aabb=[[-0.5] * 3, [0.5] * 3],
            grid_size=self.resolution,
        )
        return [Mesh(*mesh)], subs
