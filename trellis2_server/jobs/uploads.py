"""`Uploads`: which image hash an upload has, so that its background is removed once.

What this module does not know: jobs, HTTP, how a picture is cut out.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from trellis2_server.inputs.background_model import ModelPending

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.jobs.executor import Executor
    from trellis2_server.jobs.threads import ThreadPools

#: Uploads of which the image hash is remembered.
MAX_KNOWN_UPLOADS: Final = 4096


class Upload(NamedTuple):
    """What a picture is remembered by.

    Attributes:
        owner: whose it is; nobody else's requests are answered from it.
        digest: MD5 of the file.
        remove_background: whether its background is removed.
    """

    owner: str
    digest: str
    remove_background: bool


class Uploads:
    """The uploads that were cut out lately."""

    def __init__(self, executor: Executor, threads: ThreadPools) -> None:
        self._executor = executor
        self._threads = threads
        self._hashes: OrderedDict[Upload, str] = OrderedDict()
        self._one_lookup = asyncio.Semaphore(1)

    def remember(self, upload: Upload, cutout: Cutout) -> str:
        """Know the upload's image hash from now on; returns it."""
        self._hashes[upload] = cutout.image_hash
        self._hashes.move_to_end(upload)
        while len(self._hashes) > MAX_KNOWN_UPLOADS:
            self._hashes.popitem(last=False)
        return cutout.image_hash

    def image_hash(self, upload: Upload) -> str | None:
        """The hash that is remembered."""
        return self._hashes.get(upload)

    async def name_of(
        self, upload: Upload, picture: bytes, on_its_way: Callable[[], str | None]
    ) -> str:
        """The image hash, remembered, or found by cutting the picture out once more.

        Args:
            upload: what the picture is remembered by.
            picture: an image file.
            on_its_way: another name that makes a cut-out needless, or None; may raise.

        Raises:
            InputError: no image, or no object in it.
        """
        cut_out = partial(
            self._executor.cut_out, picture, remove_background=upload.remove_background
        )
        while True:
            async with self._one_lookup:
                other = on_its_way()
                name = self.image_hash(upload) or other
                if name is not None:
                    return name
                try:
                    # Shielded: the thread goes on when the request is gone.
                    cutout = await asyncio.shield(self._threads.look_up(cut_out))
                    return self.remember(upload, cutout)
                except ModelPending as pending:
                    loaded, timeout_s = asyncio.wrap_future(pending.loaded), pending.timeout_s
            await asyncio.wait({loaded}, timeout=timeout_s)  # holding up no other
