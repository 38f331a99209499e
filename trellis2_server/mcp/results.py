"""What tools return: the state of a job as JSON, and a picture of its model.

Does not know: MCP's transports, files.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import anyio
from mcp.server.fastmcp import Image

from trellis2_server.client import ClientError
from trellis2_server.client.progress import ProgressTracker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mcp.server.fastmcp import Context

    from trellis2_server.client import AsyncClient, JobState

#: Edge of the pictures that tools return by themselves, pixels.
PICTURE_PX: Final = 512
#: How long a tool says nothing, seconds.
QUIET_S: Final = 15.0
#: Part of the rest by which the progress increases without news.
_STEP: Final = 1e-4


async def follow(
    client: AsyncClient, uid: str, wait_seconds: float, context: Context[Any, Any, Any]
) -> JobState:
    """Return the state of a job when it ends or the time is over; notify of its progress.

    Args:
        client: asks the server.
        uid: of the job.
        wait_seconds: how long to wait.
        context: of the tool's call, whose client may want to know of progress.
    """
    tracker, notifier = ProgressTracker(texture=True), Notifier(context.report_progress)
    with anyio.move_on_after(wait_seconds):
        repeating = asyncio.create_task(notifier.repeat())
        try:
            async with aclosing(client.events(uid)) as states:
                async for state in states:
                    progress = tracker.read(state)
                    await notifier.tell(progress.fraction, progress.text)
        finally:
            repeating.cancel()
    return await client.job(uid)


class Notifier:
    """Notifies an agent of progress, whose fraction only increases, as MCP wants it.

    Args:
        report: sends a fraction, the whole, and a text.
        quiet_s: seconds without news after which the last ones are sent again. Clients may give up
            on a tool that says nothing for a minute.
    """

    def __init__(
        self, report: Callable[[float, float, str], Awaitable[None]], quiet_s: float = QUIET_S
    ) -> None:
        self._report = report
        self._quiet_s = quiet_s
        self._told = 0.0
        self._text = ""

    async def tell(self, fraction: float, text: str) -> None:
        """Send news, unless the fraction is not greater than before."""
        self._text = text
        if fraction > self._told:
            self._told = fraction
            await self._report(self._told, 1.0, text)

    async def repeat(self) -> None:
        """Send the last news again and again."""
        while True:
            await asyncio.sleep(self._quiet_s)
            await self.tell(self._told + (1 - self._told) * _STEP, self._text)


async def describe(client: AsyncClient, state: JobState) -> list[Any]:
    """Return a job's state and, if it has a model, a picture of it."""
    parts: list[Any] = [summary(client.server, state)]
    if state.shape_ready or state.texture_ready:
        try:
            parts.append(await picture(client, state.uid))
        except ClientError as error:  # the model is there all the same
            parts.append(f"there is no picture: {error}")
    return parts


async def picture(
    client: AsyncClient, uid: str, view: str = "three_quarter", size_px: int = PICTURE_PX
) -> Image:
    """Return a picture of a job's model."""
    content = await client.download(uid, f"thumbnail.png?size={size_px}&view={view}")
    return Image(data=content, format="png")


def summary(server: str, state: JobState) -> dict[str, Any]:
    """Return what an agent needs to know of a job."""
    waiting = {
        "queue_position": state.queue_position,
        "stage": state.stage,
        "progress_of_status": state.progress,
        "eta_seconds": state.eta_seconds,
    }
    shown: dict[str, Any] = {
        "job_id": state.uid,
        "status": state.status,
        **({} if state.is_finished else waiting),
        "error": state.error,
        "engine": state.engine,
        "seed": state.seed,
        "warnings": list(state.warnings) or None,
        "files": {name: f"{server}/jobs/{state.uid}/{name}" for name in state.files} or None,
        "next": None if state.is_finished else "call follow_job to wait for it",
    }
    return {name: value for name, value in shown.items() if value is not None}
