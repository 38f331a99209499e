"""`Uploads`: the image hash of each recent upload, so that its background is removed only once.

Does not know: jobs, HTTP, how a picture is cut out.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from trellis2_server.inputs.background import ModelPending
from trellis2_server.reports import no_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.jobs.executor import Executor
    from trellis2_server.jobs.threads import ThreadPools

#: Number of uploads whose image hash is remembered.
MAX_KNOWN_UPLOADS: Final = 4096


class Upload(NamedTuple):
    """Key of an uploaded picture. Its `repr` is part of keys that are stored.

    Attributes:
        owner: of the picture; other owners get no answers from it.
        digest: MD5 of the file, 32 hex digits.
        remove_background: whether its background is removed.
    """

    owner: str
    digest: str
    remove_background: bool


class Uploads:
    """The uploads that were cut out recently.

    Args:
        executor: cuts pictures out.
        threads: where it does so.
    """

    def __init__(self, executor: Executor, threads: ThreadPools) -> None:
        self._executor = executor
        self._threads = threads
        self._hashes: OrderedDict[Upload, str] = OrderedDict()
        self._one_lookup = asyncio.Semaphore(1)

    def remember(self, upload: Upload, cutout: Cutout) -> str:
        """Remember the upload's image hash; return it."""
        self._hashes[upload] = cutout.image_hash
        self._hashes.move_to_end(upload)
        while len(self._hashes) > MAX_KNOWN_UPLOADS:
            self._hashes.popitem(last=False)
        return cutout.image_hash

    def image_hash(self, upload: Upload) -> str | None:
        """Return the upload's image hash; None: it is not remembered."""
        return self._hashes.get(upload)

    async def identify(
        self, upload: Upload, picture: bytes, find_other: Callable[[], str | None]
    ) -> str:
        """Return the image hash, remembered or found by another cut-out.

        Args:
            upload: key of the picture.
            picture: content of the picture file.
            find_other: returns another name that makes a cut-out unnecessary, or None; may raise.

        Raises:
            InputError: the file is no picture, or there is no object in it.
        """
        cut_out = partial(
            self._executor.cut_out,
            picture,
            remove_background=upload.remove_background,
            report=no_report,
        )
        while True:
            async with self._one_lookup:
                other = find_other()
                name = self.image_hash(upload) or other
                if name is not None:
                    return name
                try:
                    # Shielded: the thread goes on when the request is cancelled.
                    cutout = await asyncio.shield(self._threads.look_up(cut_out))
                    return self.remember(upload, cutout)
                except ModelPending as pending:
                    loaded, timeout_s = asyncio.wrap_future(pending.loaded), pending.timeout_s
            await asyncio.wait({loaded}, timeout=timeout_s)  # outside: others need not wait
