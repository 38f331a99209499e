"""Both decoders at the sizes of the pipeline types: 2.5, 6.4 and 12.5 million voxels.

Does not know: samplers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.gpu.random_pipeline import shells

if TYPE_CHECKING:
    from tests.gpu.full_model import FullModel
    from tests.gpu.session import Session

#: Resolution, voxels → edge of the latent's grid, its tokens, seconds of both decoders on the
#: modelled H100 with stand-ins. A token becomes 256 voxels: each level divides a voxel into 4.
SIZES: Final = {512: (32, 10_000, 0.5), 1024: (64, 25_000, 1.3), 1536: (96, 49_152, 2.5)}
TINY_SIZES: Final = {64: (4, 10, 0.0), 128: (8, 40, 0.0)}
_LATENT_CHANNELS: Final = 32


def run(session: Session) -> None:
    """Measure each size; the second run of each counts."""
    made = session.full()
    for resolution, (edge, tokens, seconds) in (TINY_SIZES if session.is_tiny else SIZES).items():
        session.attempt(
            "both decoders",
            {"what": f"{resolution} voxels", "tokens": tokens},
            4 * seconds,
            lambda edge=edge, tokens=tokens, resolution=resolution: _measure(
                session, made, edge, tokens, resolution
            ),
        )
        session.release()


def _measure(
    session: Session, made: FullModel, edge: int, tokens: int, resolution: int
) -> dict[str, Any]:
    torch, pipeline = session.torch, made.pipeline
    torch.manual_seed(0)
    coords = shells(torch, edge, tokens).to(session.device)
    kept: dict[str, Any] = {}
    with torch.inference_mode():
        feats = torch.randn(len(coords), _LATENT_CHANNELS, device=session.device)

        def shape() -> None:
            # A new tensor: neighbour maps are kept in it.
            latent = made.upstream.sparse.SparseTensor(feats=feats, coords=coords)
            kept["mesh"], kept["guides"] = pipeline.decode_shape_slat(latent, resolution)

        def texture() -> None:
            latent = made.upstream.sparse.SparseTensor(feats=feats, coords=coords)
            kept["voxels"] = pipeline.decode_tex_slat(latent, kept["guides"])

        _, shape_first_s, _ = session.meter.run(shape)
        _, texture_first_s, _ = session.meter.run(texture)
        _, shape_s, shape_gib = session.meter.run(shape)
        _, texture_s, texture_gib = session.meter.run(texture)
    return {
        "voxels": len(kept["voxels"].feats),
        "faces": len(kept["mesh"][0].faces),
        "shape_s": shape_s,
        "texture_s": texture_s,
        "shape_first_s": shape_first_s,
        "texture_first_s": texture_first_s,
        "shape_peak_gib": shape_gib,
        "texture_peak_gib": texture_gib,
    }
