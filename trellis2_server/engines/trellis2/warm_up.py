"""Runs the texture decoder at typical sizes, so that kernels are ready before the first job.

FlexGEMM tunes its convolution for each power of two of voxels and each pair of channels, which
takes minutes the first time; `kernel_caches` keeps the result. The stand-in's Triton kernel is
compiled for each pair of channels, at any size, which takes seconds. The shape decoder has the same
channels, but chooses its voxels itself; those of the texture decoder are given, so that each
level has a known number: four times that of the level before, as for a surface.

That a GPU tunes nothing in the first job after this is not shown: no test has one.

Does not know: FlexGEMM's sizes, files.
"""

from __future__ import annotations

import importlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.trellis2.progress import StageProgress
from trellis2_server.errors import EngineBrokenError, EngineError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from trellis2_server.engines.trellis2.loaded_model import LoadedModel
    from trellis2_server.reports import Report

logger = logging.getLogger(__name__)

STAGE: Final = "warm up"
#: Tokens of the latents that are decoded, the most frequent sizes first: '512', '1024_cascade',
#: and what lies between and above. Each is the middle between two powers of two.
TOKENS: Final = (6_144, 24_576, 12_288, 49_152)
#: After this time, in seconds, the rest is left to the jobs.
BUDGET_S: Final = 300.0
#: Edge of the grid of tokens, voxels.
_EDGE: Final = 64
#: Distance between the planes on which tokens lie, voxels.
_GAP: Final = 4
#: Children of a voxel, of which a surface has half: those with the lower z.
_CHILDREN: Final = 8
_DECODER: Final = "tex_slat_decoder"


class _OutOfTimeError(Exception):
    """The budget is spent."""


def sizes_of(model: LoadedModel) -> tuple[int, ...]:
    """Numbers of tokens to decode: one is enough where kernels are only compiled.

    None where there is nothing to prepare: PyTorch's operators are compiled already.
    """
    if _DECODER not in model.pipeline.models:
        return ()
    if any(e.name == "flex_gemm" and e.kind == "real" for e in model.upstream.extensions):
        return TOKENS
    standin = importlib.import_module("trellis2_server.engines.portable.convolution")
    return TOKENS[:1] if standin.is_kernel_used_on(model.pipeline.device) else ()


def run(
    model: LoadedModel,
    sizes: Sequence[int],
    running: Callable[[StageProgress], AbstractContextManager[None]],
    report: Report,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Decode at each size until the budget is spent; a failure is a warning.

    Args:
        model: loaded.
        sizes: numbers of tokens, from `sizes_of`.
        running: makes the context of a stage, see `StageRunner.running`.
        report: stage "warm up", one step for each size.
        clock: time, seconds.

    Raises:
        EngineBrokenError: the device cannot be used any more.
    """
    start, done, too_large = clock(), 0, float("inf")

    def bounded(stage: str, step: int, steps: int) -> None:
        report(stage, step, steps)
        if clock() - start > BUDGET_S:
            raise _OutOfTimeError

    progress = StageProgress(bounded)
    try:
        for step, tokens in enumerate(sizes):
            progress(STAGE, step, len(sizes))
            if tokens >= too_large:
                continue
            try:
                with running(progress):
                    _decode(model, tokens, progress)
                done += 1
            except OutOfMemoryError:
                too_large = tokens
    except _OutOfTimeError:
        logger.warning("The warm-up ended early: the first jobs tune the rest")
    except EngineBrokenError:
        raise
    except EngineError as error:
        logger.warning("The warm-up failed, which may slow the first jobs: %s", error)
    report(STAGE, len(sizes), len(sizes))
    logger.info("Warm-up", extra={"sizes": done, "seconds": round(clock() - start, 1)})


def _decode(model: LoadedModel, tokens: int, progress: StageProgress) -> None:
    pipeline, torch, sparse = model.pipeline, model.upstream.torch, model.upstream.sparse
    decoder, device = pipeline.models[_DECODER], pipeline.device
    latent = sparse.SparseTensor(
        feats=torch.zeros(tokens, decoder.from_latent.in_features, device=device),
        coords=_coords(torch, tokens).to(device),
    )
    is_child = torch.arange(_CHILDREN, device=device) < _CHILDREN // 2
    guides = [
        sparse.VarLenTensor(is_child.expand(tokens * (_CHILDREN // 2) ** level, -1).contiguous())
        for level in range(len(decoder.blocks) - 1)
    ]
    with progress.block_hooks(decoder, progress.repeat):
        pipeline.decode_tex_slat(latent, guides)


def _coords(torch: Any, tokens: int) -> Any:
    """Voxels on planes, int32 [T, 4]: batch, x, y, z."""
    i = torch.arange(tokens, dtype=torch.int32)
    plane = _EDGE * _EDGE
    x, y, z = i // _EDGE % _EDGE, i % _EDGE, i // plane * _GAP
    return torch.stack([torch.zeros_like(i), x, y, z], dim=1)
