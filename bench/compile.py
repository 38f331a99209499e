"""Time of a flow model's evaluation, as TRELLIS.2 computes it and with fused blocks.

    TRELLIS2_HOME=… python bench/compile.py [--device cuda] [--tokens 4096] [--channels 512]

The model is TRELLIS.2's for shapes, with random weights. Both are measured in this process, in
turns. Also prints the largest difference of the results, and how long compilation took.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.record import Record, add_option
from trellis2_server.engines.trellis2.upstream import import_upstream
from trellis2_server.settings import ModelSettings


def build(upstream: Any, channels: int, blocks: int, dtype: str, device: str) -> Any:
    """A flow model with random weights."""
    upstream.torch.manual_seed(0)
    model = upstream.models.SLatFlowModel(
        resolution=64,
        in_channels=32,
        model_channels=channels,
        cond_channels=1024,
        out_channels=32,
        num_blocks=blocks,
        num_head_channels=64,
        mlp_ratio=5.3334,
        pe_mode="rope",
        dtype=dtype,
        share_mod=True,
        initialization="scaled",
        qk_rms_norm=True,
        qk_rms_norm_cross=True,
    )
    for parameter in model.out_layer.parameters():
        parameter.data.normal_(std=0.02)
    return model.eval().requires_grad_(requires_grad=False).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    add_option(parser)
    given = parser.parse_args()
    record = Record(__file__, given)
    upstream = import_upstream(ModelSettings(engine="trellis2", device=given.device))
    torch = upstream.torch
    from trellis2_server.engines.trellis2.compilation.blocks import FusedBlocks

    kind = (given.channels, given.blocks, given.dtype, given.device)
    usual, fused = build(upstream, *kind), build(upstream, *kind)
    start = time.perf_counter()
    blocks = FusedBlocks()
    blocks.install([fused], given.device)
    compilation_s = time.perf_counter() - start
    print(f"compilation {compilation_s:.1f} s, failed: {blocks.failed}")
    coords = torch.randint(0, 64, (given.tokens, 4), dtype=torch.int32)
    coords[:, 0] = 0
    feats, condition = torch.randn(given.tokens, 32), torch.randn(1, 1029, 1024)
    t = torch.tensor([500.0], device=given.device)
    x = upstream.sparse.SparseTensor(feats.to(given.device), coords.to(given.device))
    condition = condition.to(given.device)

    def evaluate(model: Any) -> tuple[Any, float]:
        begin = time.perf_counter()
        result = model(x, t, condition).feats.float()
        if given.device != "cpu":
            torch.cuda.synchronize(given.device)
        return result, (time.perf_counter() - begin) * 1000

    with torch.inference_mode():
        expected, result = evaluate(usual)[0], evaluate(fused)[0]
        times = [(evaluate(usual)[1], evaluate(fused)[1]) for _ in range(given.repeats)]
    before, after = (statistics.median(column) for column in zip(*times, strict=True))
    difference = ((result - expected).abs().max() / expected.abs().max()).item()
    record.add(
        "compile",
        {
            "usual_ms": before,
            "fused_ms": after,
            "ratio": before / after,
            "difference": difference,
            "compilation_s": compilation_s,
        },
    )
    print(
        f"{given.tokens} tokens: {before:.0f} ms, fused {after:.0f} ms, {before / after:.2f} times"
    )
    print(f"largest difference {difference:.1e} of the largest value")


if __name__ == "__main__":
    main()
