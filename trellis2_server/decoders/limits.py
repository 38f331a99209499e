"""`DecoderLimits`: what a decoder process may use.

Does not know: how a limit is enforced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trellis2_server.settings import Settings

#: Memory for each pixel of the largest picture, bytes. Measured for 64 million pixels: at most
#: 18.3, for lossless WebP with transparency. The largest meshes take 1.3 GB, whatever the settings.
_PIXEL_BYTES: Final = 20


@dataclass(frozen=True, slots=True)
class DecoderLimits:
    """Limits of one decoder process.

    Attributes:
        memory_bytes: of its address space, besides what it has before it reads a file, bytes.
        timeout_s: time for one call, seconds.
        result_bytes: maximum size of the arrays of one result, bytes.
        threads: number of threads that may compute at one time, for the limit of processor time.
        memory_is_watched: whether the server watches the memory, as on systems that do not limit
            it.
        folders: files and folders that it may read, besides libraries.
        is_kept: whether the process is kept, however much its memory grows: it holds a model.
    """

    memory_bytes: int
    timeout_s: float
    result_bytes: int = 2**30
    threads: int = 1
    memory_is_watched: bool = False
    folders: tuple[str, ...] = ()
    is_kept: bool = False


def decoder_limits(settings: Settings) -> DecoderLimits:
    """Return the limits of a process that decodes pictures and meshes."""
    worker = settings.worker
    return DecoderLimits(
        worker.decode_memory_bytes + settings.server.max_image_pixels * _PIXEL_BYTES,
        worker.decode_timeout_seconds,
    )
