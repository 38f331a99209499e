"""Sparse convolution and its neighbour map at the sizes of the decoders.

Only through the function that TRELLIS.2 calls: the first call on new coordinates makes the map,
the second uses it.

Does not know: how the stand-in computes, the models.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from tests.gpu.random_pipeline import shells

if TYPE_CHECKING:
    from tests.gpu.session import Session

#: Tokens of the latent and its grid, and seconds of all levels on the modelled H100.
SIZES: Final = ((10_000, 32, 0.3), (25_000, 64, 0.8), (49_152, 96, 1.6))
TINY_SIZES: Final = ((20, 4, 0.0), (40, 8, 0.0))
#: Channels of the decoders by level; each level has four times the voxels of the one before.
CHANNELS: Final = (1024, 512, 256, 128, 64)
TINY_CHANNELS: Final = (64, 32, 16, 16, 8)


def run(session: Session) -> None:
    """Measure every level of each size, the smallest first."""
    torch = session.torch
    channels = TINY_CHANNELS if session.is_tiny else CHANNELS
    sizes = TINY_SIZES if session.is_tiny else SIZES
    with torch.inference_mode():
        for tokens, edge, seconds in sizes:
            coords = shells(torch, edge, tokens).to(session.device)
            for width in channels:
                for algorithm in _algorithms():
                    session.attempt(
                        "3 x 3 x 3 convolution, float16",
                        {
                            "what": f"{tokens} tokens",
                            "algorithm": algorithm,
                            "channels": width,
                            "voxels": len(coords),
                        },
                        seconds,
                        lambda c=coords, w=width, a=algorithm: _measure(session, c, w, a),
                    )
                    session.release()
                coords = divided(torch, coords)


def divided(torch: Any, coords: Any) -> Any:
    """Each voxel divided into four of its eight children, as a sheet; int32 [4 N, 4]."""
    sheet = torch.tensor(
        [[0, 0, y, z] for y in (0, 1) for z in (0, 1)], dtype=torch.int32, device=coords.device
    )
    wide = coords * torch.tensor([1, 2, 2, 2], dtype=torch.int32, device=coords.device)
    return (wide[:, None] + sheet).reshape(-1, 4)


def _algorithms() -> tuple[str, ...]:
    """What this server chooses, and plain PyTorch where that is a choice."""
    return ("auto", "gather") if hasattr(_convolution(), "select_algorithm") else ("auto",)


def _convolution() -> Any:
    return importlib.import_module("trellis2_server.engines.portable.convolution")


def _measure(session: Session, coords: Any, width: int, algorithm: str) -> dict[str, Any]:
    convolution = _convolution()
    if not hasattr(convolution, "select_algorithm"):
        return _measure_chosen(session, coords, width)
    convolution.select_algorithm(algorithm)
    try:
        return _measure_chosen(session, coords, width)
    finally:
        convolution.select_algorithm("auto")


def _measure_chosen(session: Session, coords: Any, width: int) -> dict[str, Any]:
    sparse_submanifold_conv3d = _convolution().sparse_submanifold_conv3d
    torch, meter = session.torch, session.meter
    dtype = torch.float16 if session.is_cuda else torch.float32
    feats = torch.randn(len(coords), width, device=session.device, dtype=dtype)
    weight = torch.randn(width, 3, 3, 3, width, device=session.device, dtype=dtype)
    weight /= (27 * width) ** 0.5
    shape = (1, width, 1, 1, 1)
    few = slice(0, min(len(coords), 2_000))
    # Compiles what is compiled for this number of channels.
    sparse_submanifold_conv3d(feats[few], coords[few], shape, weight)
    (_, cache), with_map_s, peak = meter.run(
        lambda: sparse_submanifold_conv3d(feats, coords, shape, weight)
    )
    seconds = meter.fastest(
        lambda: sparse_submanifold_conv3d(feats, coords, shape, weight, neighbor_cache=cache)
    )
    return {
        "neighbour_map_ms": 1e3 * max(with_map_s - seconds, 0.0),
        "convolution_ms": 1e3 * seconds,
        "dense_tflops": 2 * 27 * width**2 * len(coords) / seconds / 1e12,
        "peak_gib": peak,
    }
