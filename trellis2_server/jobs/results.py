"""`JobResults`: the files of the jobs while they are stored, and further exports from them.

Does not know: HTTP, which client asks, where the archive stores files.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import JobNotFoundError, JobNotReadyError, StoreError
from trellis2_server.export.gltf import read_warnings
from trellis2_server.jobs.conversions import Conversions
from trellis2_server.jobs.export_calls import ExportWork, with_contents
from trellis2_server.jobs.job import (
    INPUT_FILE,
    SHAPE_FILE,
    TEXTURED_FILE,
    VIEW_FILES,
    Status,
    public_name,
)
from trellis2_server.jobs.service import ExportedModel
from trellis2_server.storage.snapshots import FIELD_SNAPSHOT, SHAPE_SNAPSHOT

if TYPE_CHECKING:
    from trellis2_server.errors import ServerError
    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.executor import Executor
    from trellis2_server.jobs.export_calls import ExportCalls
    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.records import JobRecords
    from trellis2_server.parameters import DerivedForm, FileForm, Options
    from trellis2_server.settings import WorkerSettings
    from trellis2_server.storage.archive import Archive
    from trellis2_server.storage.content import Content
    from trellis2_server.storage.store import Artifact, StoreContents

logger = logging.getLogger(__name__)

#: The files that clients can get, in the order in which they are made.
FILES: Final = (INPUT_FILE, *VIEW_FILES.values(), SHAPE_FILE, TEXTURED_FILE)
#: The field of `Job` that refers to each GLB.
_FIELDS: Final = {SHAPE_FILE: "shape_glb", TEXTURED_FILE: "textured_glb"}
#: Jobs that are deleted at a time to make room; the event loop runs in between.
JOBS_PER_TURN: Final = 32
_NO_TEXTURE: Final = "this job has no texture; ask for one with /generate_texture"
_TEXTURE_GONE: Final = (
    "the texture of this job is no longer stored; send the picture again, or texture: false"
)
_GEOMETRY_GONE: Final = "the geometry of this job is no longer stored; send the picture again"


class JobResults:
    """The files of all jobs. Belongs to the event loop's thread.

    Args:
        active_jobs: the jobs in progress, and the registry of all.
        archive: stores the files.
        export_calls: where exports run.
        executor: does them.
        limits: size of all files above which the oldest finished jobs are deleted.
    """

    def __init__(
        self,
        active_jobs: ActiveJobs,
        archive: Archive,
        export_calls: ExportCalls,
        executor: Executor,
        limits: WorkerSettings,
    ) -> None:
        self._active_jobs = active_jobs
        self._registry = active_jobs.registry
        self._archive = archive
        self._export_calls = export_calls
        self._executor = executor
        self._conversions = Conversions(archive, export_calls, executor, limits)
        self._max_bytes = limits.max_result_bytes
        self._latest_uid = ""
        self._next_turn: asyncio.Handle | None = None

    @property
    def notes(self) -> list[str]:
        """Notes for the operator."""
        return self._archive.notes

    # ---- room ------------------------------------------------------------------------

    def restore(self, records: JobRecords, contents: StoreContents) -> None:
        """Take over what was stored before, and make room if the limit is lower now.

        Args:
            records: puts the jobs and names into the registry.
            contents: what was stored.
        """
        records.restore(contents, self._registry)
        self._conversions.restore(job.uid for job in self._registry)
        self._make_room()

    def close(self) -> None:
        """Delete nothing more to make room."""
        if self._next_turn is not None:
            self._next_turn.cancel()

    def note_stored(self, artifact: Artifact) -> None:
        """Make room for a file that has been stored, and notify the subscriptions of its job."""
        self._latest_uid = artifact.uid
        if self._next_turn is None:
            self._make_room()
        self._active_jobs.subscriptions.touch(artifact.uid)

    def _make_room(self) -> None:
        """Delete conversions, then the oldest finished jobs: some now, the others in later turns.

        The job of the latest file stays, even if it alone exceeds the limit.
        """
        self._next_turn = None
        excess = self._archive.size - self._max_bytes
        if excess <= 0:
            return
        self._conversions.make_room(excess)
        excess = self._archive.size - self._max_bytes
        jobs: list[Job] = []
        for job in self._registry.oldest_finished(JOBS_PER_TURN):
            if excess <= 0:
                break
            if job.uid == self._latest_uid:
                continue
            excess -= sum(artifact.size for artifact in self._archive.files(job.uid))
            logger.info("Job removed: worker.max_result_bytes", extra={"uid": job.uid})
            jobs.append(job)
        if jobs:
            self.delete(*jobs)
        if jobs and excess > 0:
            self._next_turn = asyncio.get_running_loop().call_soon(self._make_room)

    def delete(self, *jobs: Job) -> None:
        """Delete finished jobs and their files."""
        for job in jobs:
            self._active_jobs.discard(job.uid)
        self._registry.remove(*(job.uid for job in jobs))

    # ---- files -----------------------------------------------------------------------

    def files(self, job: Job) -> list[Artifact]:
        """Return the files of the job that exist."""
        found = (self._archive.find(job.uid, name) for name in FILES)
        return [artifact for artifact in found if artifact]

    def file(self, job: Job, name: str) -> Artifact:
        """Return one file of the job.

        Raises:
            JobNotFoundError: it does not exist.
        """
        artifact = self._archive.find(job.uid, name)
        if artifact is None:
            is_to_come = not job.status.is_finished
            raise JobNotFoundError(
                f"{public_name(name)} is not there yet"
                if is_to_come
                else f"this job has no {public_name(name)}"
            )
        return artifact

    async def open_file(self, artifact: Artifact | None) -> Content:
        """Return the content of a file, exactly as it was made.

        Raises:
            JobNotFoundError: it is lost or deleted; a job whose GLB is lost becomes an error.
            StoreError: it cannot be read now.
        """
        if artifact is None:
            raise JobNotFoundError("there is no such file")
        try:
            return await self._archive.open_file(artifact)
        except StoreError as error:
            if not error.is_lost:
                raise
            self._note_loss(artifact, error)
            raise JobNotFoundError(f"{error}; send the picture again") from error

    def _note_loss(self, artifact: Artifact, error: StoreError) -> None:
        """Record that a file is lost; its job matches no request any more."""
        field = _FIELDS.get(artifact.name)
        if field is None or artifact.uid not in self._registry:
            return
        job = self._registry[artifact.uid]
        changes: dict[str, Any] = {field: None}
        if job.status is Status.COMPLETED:
            changes |= {"status": Status.ERROR, "error": copy.copy(error)}
            self._active_jobs.discard(job.uid)
        job = self._registry.put(job.changed(self._active_jobs.clock(), **changes))
        self._active_jobs.subscriptions.publish(job)

    # ---- other file types --------------------------------------------------------------

    def find_conversion(self, model: Artifact, file_type: DerivedForm) -> Artifact | None:
        """Return the stored conversion of a model; None: it has to be made."""
        return self._conversions.find(model, file_type)

    async def convert(
        self, model: Artifact | None, file_type: DerivedForm, client: str, *, may_refuse: bool
    ) -> Content:
        """Return a stored GLB in a file type, or a picture of it; made once, see `Conversions`.

        Args:
            model: the GLB.
            file_type: the type, "glb" too.
            client: see `ExportCalls.run`.
            may_refuse: see `ExportCalls.run`.

        Raises:
            JobNotFoundError: as in `open_file`.
            ServerError: the conversion failed, or was refused.
        """
        content = await self.open_file(model)
        if file_type == "glb" or model is None:
            return content
        return await self._conversions.convert(
            model, content, file_type, client, may_refuse=may_refuse
        )

    # ---- further exports ---------------------------------------------------------------

    def can_export(self, job: Job) -> bool:
        """Return whether the job's geometry is stored, or is being stored."""
        is_stored = self._archive.find(job.uid, SHAPE_SNAPSHOT) is not None
        return is_stored or self._archive.is_coming(job.uid, SHAPE_SNAPSHOT)

    async def export(
        self,
        job: Job,
        options: Options,
        client: str,
        *,
        texture: bool | None,
        file_type: FileForm,
    ) -> ExportedModel:
        """Return the job's model, exported with other options.

        Snapshots that are being stored are waited for: right after the job has ended, the model
        would otherwise lack its texture. A textured job is never exported without its texture,
        unless the caller asks for that.

        Args:
            job: the job.
            options: those of the job, with other export options.
            client: see `ExportCalls.run`.
            texture: whether it is textured; None: if there is a texture, or the job makes one.
            file_type: the type of the file.

        Raises:
            JobNotReadyError: the job has not made it yet.
            JobNotFoundError: its geometry, or its texture, is not stored.
            TooManyRequestsError: see `ExportCalls.run`.
            ServerError: the export failed; or the job did, before it made what is needed.
        """
        job = self._latest(job)
        _check_is_made(job, texture=texture)
        shape = await self._archive.find_soon(job.uid, SHAPE_SNAPSHOT)
        field = None
        if texture is not False:
            field = await self._archive.find_soon(job.uid, FIELD_SNAPSHOT)
        if shape is None:
            raise _error(job) or JobNotFoundError(_GEOMETRY_GONE)
        if field is None and (texture or (texture is None and job.textured_glb is not None)):
            raise _error(job) or JobNotFoundError(
                _TEXTURE_GONE if job.textured_glb is not None else _NO_TEXTURE
            )
        call = with_contents(
            partial(self._executor.export_again, job.engine, options=options),
            await self._snapshot(shape),
            await self._snapshot(field) if field else None,
        )
        glb = await self._export_calls.run(ExportWork(call), client)
        # The file of a mesh has no warnings of its own, and its JSON may be long.
        warnings = read_warnings(await glb.read()) if options.mesh is None else ()
        if file_type == "glb":
            return ExportedModel(glb, warnings)
        converted = await self._conversions.convert_bytes(glb, file_type, client)
        return ExportedModel(converted, warnings)

    def _latest(self, job: Job) -> Job:
        """Return the job as it is now: it may have changed since the caller got it."""
        is_known = job.uid in self._registry
        return self._registry[job.uid] if is_known else job

    async def _snapshot(self, artifact: Artifact) -> Content:
        try:
            return await self._archive.open_file(artifact)
        except StoreError as error:
            if not error.is_lost:
                raise
            raise JobNotFoundError(_GEOMETRY_GONE) from error


def _check_is_made(job: Job, *, texture: bool | None) -> None:
    """Check that the job is finished, or has at least the shape and nothing else is wanted.

    Raises:
        JobNotReadyError: it is not.
    """
    if job.status.is_finished or (texture is False and job.shape_glb is not None):
        return
    what = "untextured model" if job.shape_glb is None else "texture"
    also = "" if job.shape_glb is None else ", or send texture: false"
    raise JobNotReadyError(f"the {what} of this job is not there yet; wait until it ends{also}")


def _error(job: Job) -> ServerError | None:
    """Return why the job failed, to be raised; None: it did not."""
    return copy.copy(job.error) if job.error is not None else None
