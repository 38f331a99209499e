"""Memory files: memory that two processes share by a descriptor, and that has no name.

On Linux they are anonymous memory, elsewhere temporary files that are already deleted: when the
last process that has the descriptor ends, however it ends, nothing is left. The server reads and
writes them like files and maps none: a process that cuts one short cannot make it crash.

Does not know: what the bytes mean, who the other process is.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import tempfile
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.decoders.messages import ProtocolError, check_array
from trellis2_server.errors import NoSpaceError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trellis2_server.decoders.messages import ArraySpec

logger = logging.getLogger(__name__)

#: A full disk, a quota, the limit of a file's size.
_NO_SPACE: Final = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
#: Bytes of one system call; Linux moves at most 2 GiB in one.
_CHUNK: Final = 2**26


def create_memory(size: int, *, is_named: bool = False) -> int:
    """Return the descriptor of new memory; the caller closes it.

    Args:
        size: bytes, all zero.
        is_named: whether to take a temporary file, as on systems without anonymous memory. Its
            space is taken at once, where the system can do that: a decoder that writes to a full
            disk through a mapping is killed.

    Raises:
        NoSpaceError: the temporary folder, or the memory for files, is full.
        UnavailableError: the folder cannot be written to, or too many files are open.
    """
    try:
        if is_named or not hasattr(os, "memfd_create"):
            with tempfile.TemporaryFile(buffering=0) as file:
                file.truncate(size)
                if size and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                return os.dup(file.fileno())
        descriptor = os.memfd_create("decoder", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise _unavailable(error) from error
    return descriptor


def fill_memory(descriptor: int, content: bytes | memoryview) -> None:
    """Write content from the start.

    Raises:
        UnavailableError: as in `create_memory`.
    """
    try:
        with open(descriptor, "wb", buffering=0, closefd=False) as file:
            file.seek(0)
            view = memoryview(content)
            while view:
                view = view[file.write(view[:_CHUNK]) :]
    except OSError as error:
        raise _unavailable(error) from error


def _unavailable(error: OSError) -> UnavailableError:
    logger.error("No temporary file", extra={"cause": error.strerror or str(error)})
    if error.errno in _NO_SPACE:
        return NoSpaceError("the server has no space for temporary files", retry_after_s=30)
    return UnavailableError("the server cannot make temporary files", retry_after_s=30)


def seal_memory(descriptor: int, *, is_written: bool) -> None:
    """Fix the size, where the system can do that; also the content, if it is written."""
    if sys.platform == "linux":
        import fcntl

        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        if is_written:
            seals |= fcntl.F_SEAL_WRITE
        try:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        except OSError:
            return  # a temporary file


def read_arrays(descriptor: int, specs: Sequence[ArraySpec]) -> dict[str, NDArray[Any]]:
    """Return copies of the arrays that lie in memory one after the other.

    Raises:
        ProtocolError: the memory was cut short, or an array has invalid values.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        file.seek(0)
        for spec in specs:
            array = np.empty(spec.shape, spec.dtype)
            view = array.reshape(-1).view(np.uint8).data
            while view:
                count = file.readinto(view[:_CHUNK])
                if not count:
                    raise ProtocolError("a result is cut short")
                view = view[count:]
            check_array(array)
            arrays[spec.name] = array
    return arrays
