"""`Submissions`: turns a picture and options into a job: a matching one, or a new one.

Does not know: HTTP, how a job is worked on.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from trellis2_server.inputs.images import digest_of
from trellis2_server.jobs.job import ANONYMOUS, Job
from trellis2_server.jobs.matching import upload_key
from trellis2_server.jobs.queue import ActiveJob, job_future
from trellis2_server.jobs.uploads import Upload

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.inputs.images import Pictures
    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.admission import Admission
    from trellis2_server.jobs.job import Caller
    from trellis2_server.jobs.lookups import Lookups
    from trellis2_server.jobs.matching import JobMatcher
    from trellis2_server.jobs.step_results import StepResults
    from trellis2_server.jobs.text_pictures import TextPictures
    from trellis2_server.parameters import Options
    from trellis2_server.request_fields import RemoveBackground

logger = logging.getLogger(__name__)


class _NewJob(NamedTuple):
    """What a job is made of that does not exist yet.

    Attributes:
        start: starts it.
        picture_bytes: size of its picture.
        mesh: its mesh file.
    """

    start: Callable[[ActiveJob], None]
    picture_bytes: int
    mesh: bytes | None


class Submissions:
    """Accepts pictures, and texts for pictures. Belongs to the event loop's thread.

    Args:
        active_jobs: the jobs in progress.
        admission: limits on new jobs.
        matcher: finds known jobs.
        lookups: finds the image hash of a picture.
        results: starts new jobs, and textures of known ones.
        text_pictures: starts new jobs that have a text instead of a picture.

    Attributes:
        engine: name of the engine, recorded with each job.
        on_request: called when a client has requested a known job: it may start at that client's
            place.
    """

    engine: str

    def __init__(  # noqa: PLR0913, PLR0917 - six collaborators
        self,
        active_jobs: ActiveJobs,
        admission: Admission,
        matcher: JobMatcher,
        lookups: Lookups,
        results: StepResults,
        text_pictures: TextPictures,
    ) -> None:
        self.on_request: Callable[[], None] = lambda: None
        self._active_jobs = active_jobs
        self._registry = active_jobs.registry
        self._admission = admission
        self._matcher = matcher
        self._lookups = lookups
        self._results = results
        self._text_pictures = text_pictures

    async def submit(
        self,
        picture: Pictures,
        options: Options,
        caller: Caller = ANONYMOUS,
        *,
        texture: bool | None,
        mesh: bytes | None = None,
    ) -> Job:
        """Return the caller's job for a picture and options: a matching one, or a new one.

        Args:
            picture: content of the picture file, or of several of one object.
            options: the parameters of the job.
            caller: the client.
            texture: False: the texture of a new job is not made until it is requested.
            mesh: the file that `options.mesh` is the MD5 of. If it is the untextured GLB of a
                stored job and the picture is that job's, that job is returned.

        Raises:
            UnavailableError: loading, shutting down, unhealthy, or the queue is full.
            TooManyRequestsError: the client has too many unfinished jobs.
        """
        digest = await asyncio.to_thread(digest_of, picture)
        upload = Upload(caller.owner, digest, options.remove_background)
        start = partial(self._results.start_job, picture=picture)
        new = _NewJob(start, len(picture), mesh)
        return self._submit(upload, options, caller, new, texture=texture)

    async def submit_text(
        self,
        text: str,
        options: Options,
        caller: Caller = ANONYMOUS,
        *,
        texture: bool | None,
        mesh: bytes | None = None,
    ) -> Job:
        """Return the caller's job for a text and options: a matching one, or a new one.

        Args:
            text: what the picture that the job needs is to show.
            options: as for `submit`, like the following ones.
            caller: the client.
            texture: whether to make a texture.
            mesh: the file that `options.mesh` is the MD5 of.

        Raises:
            InputError: no text-to-image server is configured.
            UnavailableError: see `submit`.
        """
        digest = self._text_pictures.digest(text, options.seed, caller.owner)
        upload = Upload(caller.owner, digest, options.remove_background)
        start = partial(self._text_pictures.start, text=text, seed=options.seed)
        return self._submit(upload, options, caller, _NewJob(start, 0, mesh), texture=texture)

    def _submit(
        self,
        upload: Upload,
        options: Options,
        caller: Caller,
        new: _NewJob,
        *,
        texture: bool | None,
    ) -> Job:
        self._admission.check_open()
        job = self._matcher.find_by_upload(upload, options, texture=texture is not False)
        if job is None:
            self._admission.check_new_job(new.picture_bytes + len(new.mesh or b""), caller)
            job = self._create(upload, options, caller, new, texture=texture)
        else:
            self._registry.add_client(job.uid, caller.client)
            self.on_request()
        self._active_jobs.note_request(job.uid)
        active = self._active_jobs.get(job.uid)
        if active and texture is not False and not (active.wants_texture or active.texture_done):
            self._results.request_texture(job)
        return self._registry[job.uid]

    def _create(
        self,
        upload: Upload,
        options: Options,
        caller: Caller,
        new: _NewJob,
        *,
        texture: bool | None,
    ) -> Job:
        now = self._active_jobs.clock()
        job = self._registry.put(
            Job(
                uid=str(uuid.uuid4()),
                options=options,
                engine=self.engine,
                created_at=now,
                owner=upload.owner,
                created_unix_s=time.time(),
            )
        )
        self._registry.add_client(job.uid, caller.client)  # before a step starts: places are shared
        key = upload_key(upload, options)
        if key is not None:
            self._registry.bind_key(key, job.uid)
        active = ActiveJob(
            uid=job.uid,
            upload=upload,
            wants_texture=texture is not False,
            shape_done=job_future(),
            deadline=now,
            last_requested_at=now,
            mesh=new.mesh,
        )
        logger.info("Job accepted", extra={"uid": job.uid, "seed": options.seed})
        new.start(active)
        return job

    async def identify(
        self, picture: Pictures, caller: Caller = ANONYMOUS, *, remove_background: RemoveBackground
    ) -> str:
        """Return the image hash of a picture, or the uid of its job while that has no hash.

        The hash is remembered from the last cut-out, or found by another one, which counts in the
        limits on jobs.

        Raises:
            InputError: the file is no picture, or there is no object in it.
            UnavailableError: loading, shutting down, unhealthy, or the queue is full.
            TooManyRequestsError: the client has too many unfinished jobs and lookups.
        """
        self._admission.check_open()
        digest = await asyncio.to_thread(digest_of, picture)
        upload = Upload(caller.owner, digest, remove_background)
        name = self._lookups.known_name(upload)
        if name is not None:
            return name
        self._admission.check_open()
        if not self._lookups.is_active(upload):
            self._admission.check_queue()
        self._admission.check_upload(len(picture), caller)
        return await self._lookups.find(upload, picture, caller.client)
