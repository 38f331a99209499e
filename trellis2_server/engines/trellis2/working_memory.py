"""Memory that stages need besides the weights: modelled, then measured.

The model counts the bytes of all tensors that exist at the same time when a model with the
real widths runs: `bench/working_memory.py` measures that on a CPU, at a few thousand tokens and
voxels, and it grows linearly. How many voxels a picture gives is an estimate. Not in the model:
workspaces inside of kernels, and memory that is lost between pieces; `_RESERVE` and `_FACTOR`
allow for them. Nothing of it has been compared with a GPU. As soon as a stage has run, its
measured peak counts instead.

Does not know: which memory there is, models, stages.
"""

from __future__ import annotations

from collections import deque
from typing import Final

_MIB: Final = 2**20
_GIB: Final = 2**30

#: Resolution in voxels → voxels of a typical surface, as in the decoders' last level.
_VOXELS: Final = {512: 2_500_000, 1024: 6_400_000, 1536: 12_500_000}
#: Bytes of a decoder's tensors for each voxel of its result, and besides; the latter with what
#: the stand-in for the sparse convolution gathers at a time. Sampling at the same resolution
#: needs less: 20 kB for each of at most 49,152 tokens, and 0.1 GB.
_BYTES_PER_VOXEL: Final = 950
_DECODER_BYTES: Final = (400 + 256) * _MIB
#: Allowance for workspaces and for memory between pieces.
_FACTOR: Final = 1.1
#: CUDA context and loaded kernels.
_RESERVE: Final = _GIB

#: Stages of which at least so many must have run before a return from `low_vram`.
_MIN_STAGES: Final = 4
#: Stages whose peaks count at first; after each return that was too early twice as many.
_WINDOW: Final = 8
_MAX_WINDOW: Final = 1024
#: Memory that must be left at a return, bytes.
_MARGIN: Final = _GIB


def modelled(resolution: int) -> int:
    """Working memory of a job at a resolution in voxels, bytes."""
    known = min((r for r in _VOXELS if r >= resolution), default=max(_VOXELS))
    return int(_FACTOR * (_DECODER_BYTES + _BYTES_PER_VOXEL * _VOXELS[known]))


def needs_low_vram(weights: int, resolution: int, total: int | None) -> bool:
    """Whether a device cannot hold all weights beside a job's working memory.

    Args:
        weights: of all models, as they are on the device, bytes.
        resolution: of the jobs, voxels.
        total: memory of the device, bytes; None if it is not known: then it may be too small.
    """
    return total is None or weights + modelled(resolution) + _RESERVE > total


class WorkingMemory:
    """Working memory of the last stages, to decide whether all weights fit beside it.

    A stage is forgotten after some others, so that one large job does not count for ever.
    """

    def __init__(self) -> None:
        self._window = _WINDOW
        self._stages: deque[tuple[int, int]] = deque(maxlen=_WINDOW)
        self._succeeded = 0
        self._has_returned = False

    def expected(self, resolution: int) -> int:
        """Working memory of the next stage at a resolution: as measured, otherwise modelled."""
        measured = [size for of, size in self._stages if of == resolution]
        return max(measured, default=modelled(resolution))

    def note_stage(self, resolution: int, size: int) -> None:
        """Remember a stage that succeeded and needed that many bytes besides weights."""
        self._succeeded += 1
        self._stages.append((resolution, size))

    def note_failure(self, resolution: int, room: int) -> None:
        """Remember a stage for which that many bytes beside all weights were not enough.

        A return waits until there is more. After a return that was too early, it also waits
        for twice as many stages that need less.
        """
        if self._has_returned:
            self._window = min(2 * self._window, _MAX_WINDOW)
            self._stages = deque(self._stages, maxlen=self._window)
        self._has_returned = False
        self._stages.append((resolution, room + 1))

    def note_return(self) -> None:
        """Remember that all weights are on the device again."""
        self._has_returned = True

    def fits(self, room: int) -> bool:
        """Whether the remembered stages would fit into that many bytes beside all weights."""
        if self._succeeded < _MIN_STAGES:
            return False
        return room >= max((size for _, size in self._stages), default=0) + _MARGIN
