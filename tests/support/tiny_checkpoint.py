"""A random checkpoint of about a million parameters in TRELLIS.2's on-disk format.

    python tests/support/tiny_checkpoint.py FOLDER

Writes pipeline.json, texturing_pipeline.json, a `.json` and a `.safetensors` for each model,
and a small DINOv3, with the classes of the `trellis2` package that can be imported. The
weights are random, except for those that give a mesh: the structure is a ball, and each
voxel is subdivided into a flat sheet.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any, Final

#: Centre and radius of the ball in the structure's grid of 16, voxels.
CENTRE: Final = 7.5
RADIUS: Final = 1.5
COND_CHANNELS: Final = 32
MESH_ENCODER: Final = "shape_slat_encoder"

_FLOW: Final = {
    "model_channels": 48,
    "cond_channels": COND_CHANNELS,
    "num_blocks": 2,
    "num_heads": 2,
    "mlp_ratio": 2,
    "share_mod": True,
    "initialization": "scaled",
    "qk_rms_norm": True,
    "qk_rms_norm_cross": True,
}
_ENCODER: Final = {
    "model_channels": [8, 16, 16, 32, 64],
    "latent_channels": 32,
    "num_blocks": [0, 1, 1, 1, 1],
    "block_type": ["SparseConvNeXtBlock3d"] * 5,
    "down_block_type": ["SparseResBlockS2C3d"] * 4,
    "block_args": [{"use_checkpoint": False}] * 5,
}
_DECODER: Final = {
    "model_channels": [64, 32, 16, 16, 8],
    "latent_channels": 32,
    "num_blocks": [1, 1, 1, 1, 0],
    "block_type": ["SparseConvNeXtBlock3d"] * 5,
    "up_block_type": ["SparseResBlockC2S3d"] * 4,
    "block_args": [{"use_checkpoint": False}] * 5,
}


def _flow(resolution: int, in_channels: int, dtype: str) -> dict[str, Any]:
    return {
        "name": "SLatFlowModel",
        "args": {
            **_FLOW,
            "resolution": resolution,
            "in_channels": in_channels,
            "out_channels": 32,
            "pe_mode": "rope",
            "dtype": dtype,
        },
    }


def models(dtype: str, *, use_fp16: bool) -> dict[str, dict[str, Any]]:
    """Name in pipeline.json → class and constructor arguments."""
    return {
        "sparse_structure_flow_model": {
            "name": "SparseStructureFlowModel",
            "args": {
                **_FLOW,
                "resolution": 16,
                "in_channels": 8,
                "out_channels": 8,
                "pe_mode": "ape",
                "dtype": dtype,
            },
        },
        "sparse_structure_decoder": {
            "name": "SparseStructureDecoder",
            "args": {
                "out_channels": 1,
                "latent_channels": 8,
                "num_res_blocks": 1,
                "num_res_blocks_middle": 1,
                "channels": [8, 8, 8],
                "use_fp16": use_fp16,
            },
        },
        "shape_slat_flow_model_512": _flow(32, 32, dtype),
        "shape_slat_flow_model_1024": _flow(64, 32, dtype),
        "shape_slat_decoder": {
            "name": "FlexiDualGridVaeDecoder",
            "args": {**_DECODER, "resolution": 256, "use_fp16": use_fp16},
        },
        "tex_slat_flow_model_512": _flow(32, 64, dtype),
        "tex_slat_flow_model_1024": _flow(64, 64, dtype),
        "tex_slat_decoder": {
            "name": "SparseUnetVaeDecoder",
            "args": {**_DECODER, "out_channels": 6, "pred_subdiv": False, "use_fp16": use_fp16},
        },
        MESH_ENCODER: {
            "name": "FlexiDualGridVaeEncoder",
            "args": {**_ENCODER, "use_fp16": use_fp16},
        },
    }


def write(folder: Path, *, dtype: str = "float32", use_fp16: bool = False, seed: int = 0) -> Path:
    """Write the checkpoint; `trellis2` and its extensions must be importable.

    Args:
        folder: created if it does not exist.
        dtype: dtype of the flow models, "float32" or "bfloat16".
        use_fp16: whether the decoders compute in float16.
        seed: seed of the weights.
    """
    torch: Any = importlib.import_module("torch")
    classes: Any = importlib.import_module("trellis2.models")
    save_file = importlib.import_module("safetensors.torch").save_file
    (folder / "ckpts").mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        table = models(dtype, use_fp16=use_fp16)
        for name, config in table.items():
            model = getattr(classes, config["name"])(**config["args"])
            for parameter in model.parameters():
                scale = 0.5 / max(parameter[0].numel(), 1) ** 0.5 if parameter.dim() > 1 else 0.1
                parameter.copy_(torch.randn(parameter.shape) * scale)
            _shape(torch, name, model)
            stem = folder / "ckpts" / name
            stem.with_suffix(".json").write_text(json.dumps(config))
            save_file(
                {key: value.contiguous() for key, value in model.state_dict().items()},
                stem.with_suffix(".safetensors"),
            )
        _write_encoder(folder / "image_encoder")
    content = pipeline(folder, [name for name in table if name != MESH_ENCODER])
    (folder / "pipeline.json").write_text(json.dumps(content, indent=2))
    names = [MESH_ENCODER, *(name for name in table if name.startswith("tex_slat"))]
    content["name"] = "Trellis2TexturingPipeline"
    content["args"]["models"] = {name: f"ckpts/{name}" for name in names}
    (folder / "texturing_pipeline.json").write_text(json.dumps(content, indent=2))
    return folder


def _shape(torch: Any, name: str, model: Any) -> None:
    """Set the weights that make a mesh out of noise."""
    if name == "sparse_structure_flow_model":
        axis = torch.arange(16) - CENTRE
        x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
        inside = (x**2 + y**2 + z**2).sqrt().reshape(-1) < RADIUS
        model.pos_emb.mul_(0.05)
        model.pos_emb[:, 0] = torch.where(inside, 40.0, -40.0)
        model.out_layer.weight.mul_(0.2)
        model.out_layer.weight[0] = 0
        model.out_layer.weight[0, 0] = -2.0
    elif name == "sparse_structure_decoder":
        model.input_layer.weight[0] = 0
        model.input_layer.weight[0, 0, 1, 1, 1] = 1.0
        for block in model.blocks:
            if hasattr(block, "conv"):  # upsampling blocks
                block.conv.weight[:8] = 0
                block.conv.weight[:8, 0, 1, 1, 1] = 1.0
        model.out_layer[2].weight.mul_(0.05)
        model.out_layer[2].weight[0, 0, 1, 1, 1] = 1.0
        model.out_layer[0].weight.fill_(1.0)
        model.out_layer[2].bias.fill_(-1.0)
    elif name == "shape_slat_decoder":
        for level in model.blocks[:-1]:
            level[-1].to_subdiv.bias.copy_(torch.tensor([2.0] * 4 + [-2.0] * 4))
        model.output_layer.bias[5] = 1.0


def _write_encoder(folder: Path) -> None:
    transformers: Any = importlib.import_module("transformers")
    config = transformers.DINOv3ViTConfig(
        hidden_size=COND_CHANNELS,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_register_tokens=4,
        patch_size=16,
        image_size=512,
    )
    transformers.DINOv3ViTModel(config).save_pretrained(folder)


def pipeline(folder: Path, names: list[str]) -> dict[str, Any]:
    """Content of pipeline.json with those models."""

    def sampler(strength: float, rescale: float, interval: list[float], t: float) -> dict[str, Any]:
        return {
            "name": "FlowEulerGuidanceIntervalSampler",
            "args": {"sigma_min": 1e-5},
            "params": {
                "steps": 12,
                "guidance_strength": strength,
                "guidance_rescale": rescale,
                "guidance_interval": interval,
                "rescale_t": t,
            },
        }

    return {
        "name": "Trellis2ImageTo3DPipeline",
        "args": {
            "models": {name: f"ckpts/{name}" for name in names},
            "sparse_structure_sampler": sampler(7.5, 0.7, [0.6, 1.0], 5.0),
            "shape_slat_sampler": sampler(7.5, 0.5, [0.6, 1.0], 3.0),
            "tex_slat_sampler": sampler(1.0, 0.0, [0.6, 0.9], 3.0),
            "shape_slat_normalization": {"mean": [0.1] * 32, "std": [1.5] * 32},
            "tex_slat_normalization": {"mean": [0.0] * 32, "std": [1.2] * 32},
            "image_cond_model": {
                "name": "DinoV3FeatureExtractor",
                "args": {"model_name": str((folder / "image_encoder").resolve())},
            },
            "rembg_model": {"name": "BiRefNet", "args": {"model_name": "briaai/RMBG-2.0"}},
            "low_vram": False,
            "default_pipeline_type": "1024_cascade",
        },
    }


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))  # noqa: T201 - a command line
