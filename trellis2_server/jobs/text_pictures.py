"""`TextPictures`: the pictures of jobs that clients request with words.

Another server makes them. Until one is there, its job waits for its cut-out in no queue, and no
thread waits; a job that ends gives its picture up.

Does not know: HTTP, how a picture is made, what follows from it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

from trellis2_server.digests import md5
from trellis2_server.errors import EngineError, InputError, ServerError
from trellis2_server.jobs.job import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.endings import JobEndings
    from trellis2_server.jobs.queue import ActiveJob
    from trellis2_server.outbound.text_to_image import PictureMaker
    from trellis2_server.settings import Settings

logger = logging.getLogger(__name__)

#: Stage of a job whose picture is being made.
STAGE = "picture"
#: Why a text alone is refused.
NO_SERVER = (
    "text: there is no text-to-image model here; send an image of what you want, or ask the "
    "operator for text_to_image.url"
)


class TextPictures:
    """Has pictures made for jobs. Belongs to the event loop's thread.

    Args:
        settings: of the server that makes them.
        active_jobs: the jobs in progress.
        endings: ends jobs whose picture could not be made.

    Attributes:
        start_job: continues with the picture.
    """

    start_job: Callable[[ActiveJob, bytes], None]

    def __init__(self, settings: Settings, active_jobs: ActiveJobs, endings: JobEndings) -> None:
        self._settings = settings
        self._active_jobs = active_jobs
        self._endings = endings
        self._maker: PictureMaker | None = None

    def digest(self, text: str, seed: int, owner: str) -> str:
        """Return what stands for the MD5 of a picture that is not made yet.

        The same text with the same seed has the same one, so that it finds its job again.

        Args:
            text: what to show.
            seed: of the job.
            owner: of the job.

        Raises:
            InputError: no text-to-image server is configured.
        """
        return md5(json.dumps([text, seed, owner, self._ready().service.signature]).encode())

    def start(self, active: ActiveJob, text: str, seed: int) -> None:
        """Begin a new job, which waits for its picture."""
        self._active_jobs.add(active)
        active.upload_bytes = len(active.mesh or b"")
        active.add_step("cutout", _do_nothing)  # in no queue
        self._active_jobs.change(active, progress=Progress(STAGE, 0.0))
        active.picture_task = asyncio.get_running_loop().create_task(self._run(active, text, seed))

    async def _run(self, active: ActiveJob, text: str, seed: int) -> None:
        begun_s = self._active_jobs.clock()
        try:
            picture = await self._ready().make(text, seed, active.upload.digest)
        except ServerError as error:
            self._fail(active, error)
        except Exception:
            logger.exception("No picture", extra={"uid": active.uid})
            self._fail(active, EngineError("text: its picture could not be made"))
        else:
            active.picture_task = None
            timings = {STAGE: round(self._active_jobs.clock() - begun_s, 3)}
            self._active_jobs.change(active, timings=timings)
            self.start_job(active, picture)

    def _fail(self, active: ActiveJob, error: ServerError) -> None:
        active.picture_task = None
        self._endings.fail(active, error)

    def _ready(self) -> PictureMaker:
        """Return the maker. Its modules are imported by the first request that needs them."""
        service = self._settings.text_to_image
        if service.url is None:
            raise InputError(NO_SERVER)
        if self._maker is None:
            from trellis2_server.outbound.hosts import HostList
            from trellis2_server.outbound.text_to_image import ImageService, PictureMaker

            key = service.api_key
            self._maker = PictureMaker(
                ImageService(
                    url=service.url,
                    prompt_suffix=service.prompt_suffix,
                    model=service.model,
                    size=service.size,
                    response_format=service.response_format,
                    sends_seed=service.send_seed,
                    timeout_s=service.timeout_seconds,
                    max_requests=service.max_requests,
                    key=key.get_secret_value() if key else None,
                ),
                HostList(self._settings.server.image_hosts),
            )
        return self._maker


def _do_nothing() -> None:
    """Stand in for the call of a step that has no picture yet."""
