"""TRELLIS.2's pipeline with random weights, at its real size or tiny.

Random weights make no object. So the structure model runs, and its result is replaced by
voxels on spheres; the decoder is biased to divide each voxel into a sheet, which gives about
as many voxels as a real surface has.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trellis2_server.engines.trellis2 import loading
from trellis2_server.engines.trellis2.encoder import ImageEncoder
from trellis2_server.engines.trellis2.samplers import SAMPLERS, build_sampler

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from trellis2_server.engines.trellis2.upstream import Upstream

_FLOW = {
    "model_channels": 1536,
    "cond_channels": 1024,
    "num_blocks": 30,
    "num_heads": 12,
    "mlp_ratio": 5.3334,
    "pe_mode": "rope",
    "share_mod": True,
    "initialization": "scaled",
    "qk_rms_norm": True,
    "qk_rms_norm_cross": True,
    "dtype": "bfloat16",
}
_DECODER = {
    "model_channels": [1024, 512, 256, 128, 64],
    "latent_channels": 32,
    "num_blocks": [4, 16, 8, 4, 0],
    "block_type": ["SparseConvNeXtBlock3d"] * 5,
    "up_block_type": ["SparseResBlockC2S3d"] * 4,
    "block_args": [{"use_checkpoint": False}] * 5,
    "use_fp16": True,
}


def _slat(resolution: int, in_channels: int) -> tuple[str, dict[str, Any]]:
    return "SLatFlowModel", {
        **_FLOW,
        "resolution": resolution,
        "in_channels": in_channels,
        "out_channels": 32,
    }


def full_models() -> dict[str, tuple[str, dict[str, Any]]]:
    """Class and arguments of each model, from TRELLIS.2's own configurations."""
    return {
        "sparse_structure_flow_model": (
            "SparseStructureFlowModel",
            {**_FLOW, "resolution": 16, "in_channels": 8, "out_channels": 8},
        ),
        "sparse_structure_decoder": (
            "SparseStructureDecoder",
            {
                "out_channels": 1,
                "latent_channels": 8,
                "num_res_blocks": 2,
                "num_res_blocks_middle": 2,
                "channels": [512, 128, 32],
                "use_fp16": True,
            },
        ),
        "shape_slat_flow_model_512": _slat(32, 32),
        "shape_slat_flow_model_1024": _slat(64, 32),
        "shape_slat_decoder": ("FlexiDualGridVaeDecoder", {**_DECODER, "resolution": 256}),
        "tex_slat_flow_model_512": _slat(32, 64),
        "tex_slat_flow_model_1024": _slat(64, 64),
        "tex_slat_decoder": (
            "SparseUnetVaeDecoder",
            {**_DECODER, "out_channels": 6, "pred_subdiv": False},
        ),
    }


def build(  # noqa: PLR0913 - a script
    up: Upstream,
    size: str,
    device: str,
    folder: Path,
    *,
    low_vram: bool,
    only: Collection[str] | None = None,
) -> Any:
    """Build a pipeline of random models on the device.

    Args:
        up: TRELLIS.2.
        size: "full" or "tiny".
        device: PyTorch's name of the device.
        folder: gets the image encoder.
        low_vram: whether the models are moved to the CPU, one after the other.
        only: names of the models; None: all.
    """
    tiny: Any = importlib.import_module("tests.support.tiny_checkpoint")
    if size == "tiny":
        table = {
            name: (config["name"], config["args"])
            for name, config in tiny.models("float32", use_fp16=False).items()
        }
    else:
        table = full_models()
    table = {name: model for name, model in table.items() if only is None or name in only}
    torch = up.torch
    models: dict[str, Any] = {}
    for name, (kind, args) in table.items():
        with torch.device(device), loading.no_initial_values(torch):
            model = getattr(up.models, kind)(**args)
        with torch.no_grad():
            for parameter in model.parameters():
                width = parameter[0].numel() if parameter.dim() > 1 else 0
                parameter.normal_(std=0.5 / width**0.5 if width else 0.05)
            if name == "shape_slat_decoder":
                for level in model.blocks[:-1]:
                    subdivide = level[-1].to_subdiv
                    subdivide.weight.mul_(0.05)
                    subdivide.bias.copy_(torch.tensor([2.0] * 4 + [-2.0] * 4))
                model.output_layer.bias[5] = 1.0
        models[name] = model.eval().requires_grad_(requires_grad=False)
        models[name].to("cpu" if low_vram else device)
    widths = {"tiny": (tiny.COND_CHANNELS, 2, 2), "full": (1024, 24, 16)}
    _write_encoder(folder, *widths[size])
    args = tiny.pipeline(folder, list(table))["args"]
    pipeline = up.pipeline(
        models=models,
        **{name: build_sampler(up, args[name]) for name in SAMPLERS},
        **{f"{name}_params": args[name]["params"] for name in SAMPLERS},
        shape_slat_normalization=args["shape_slat_normalization"],
        tex_slat_normalization=args["tex_slat_normalization"],
        image_cond_model=ImageEncoder(str(folder)),
        low_vram=low_vram,
    )
    pipeline.to(torch.device(device))
    return pipeline


def replace_structure(torch: Any, pipeline: Any, resolution: int, tokens: int) -> None:
    """Let the structure stage run, and return voxels on spheres instead of its result."""
    voxels = shells(torch, resolution, tokens)

    def structure(*args: Any) -> Any:
        type(pipeline).sample_sparse_structure(pipeline, *args)
        return voxels.to(pipeline.device)

    pipeline.sample_sparse_structure = structure


def shells(torch: Any, resolution: int, tokens: int) -> Any:
    """The voxels nearest to four nested spheres, int32 [tokens, 4], sorted.

    One sphere has fewer voxels than a structure of a job; with more of them it is thick, and a
    convolution finds more neighbours than on a surface.
    """
    grid = torch.cartesian_prod(*[torch.arange(resolution, dtype=torch.int32)] * 3)
    radius = (grid - (resolution - 1) / 2).float().norm(dim=1)
    away = torch.full_like(radius, resolution)
    for share in (0.48, 0.36, 0.24, 0.12):
        away = torch.minimum(away, (radius - share * resolution).abs())
    voxels = grid[away.argsort(stable=True)[:tokens].sort().values]
    return torch.cat([torch.zeros(len(voxels), 1, dtype=torch.int32), voxels], dim=1)


def _write_encoder(folder: Path, width: int, layers: int, heads: int) -> None:
    """Write a random DINOv3 of that size."""
    transformers: Any = importlib.import_module("transformers")
    config = transformers.DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_register_tokens=4,
        patch_size=16,
        image_size=512,
    )
    transformers.DINOv3ViTModel(config).save_pretrained(folder)
