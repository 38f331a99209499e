"""A text-to-image server without time: its pictures are ready when a world says so."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING

from tests.support.job_model.executor import picture

if TYPE_CHECKING:
    from trellis2_server.errors import ServerError


class Painter:
    """Stands in for a `PictureMaker`.

    Attributes:
        pictures: those that jobs wait for, by the job's seed.
    """

    service = SimpleNamespace(signature="painter")

    def __init__(self) -> None:
        self.pictures: dict[int, asyncio.Future[bytes]] = {}

    async def make(self, text: str, seed: int, key: str) -> bytes:
        del text, key
        self.pictures[seed] = asyncio.get_running_loop().create_future()
        return await self.pictures[seed]

    def finish(self, error: ServerError | None = None) -> None:
        """Make all pictures, or fail to."""
        for seed, future in self.pictures.items():
            if not future.done():
                if error is None:
                    future.set_result(picture(seed, ""))
                else:
                    future.set_exception(error)
        self.pictures.clear()
