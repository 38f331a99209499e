"""`Results`: the files of the jobs, as long as they are kept, and their export once more.

What this module does not know: HTTP, who asks, where the archive keeps what it is given.
"""

from __future__ import annotations

import copy
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import JobNotFoundError, StoreError
from trellis2_server.jobs.job import Status
from trellis2_server.jobs.scheduler import INPUT_FILE, SHAPE_FILE, TEXTURED_FILE
from trellis2_server.storage.snapshots import FIELD_SNAPSHOT, SHAPE_SNAPSHOT

if TYPE_CHECKING:
    from trellis2_server.jobs.executor import Executor
    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.registry import JobRegistry
    from trellis2_server.jobs.scheduler import Scheduler
    from trellis2_server.jobs.subscriptions import Subscriptions
    from trellis2_server.parameters import Options
    from trellis2_server.settings import Settings
    from trellis2_server.storage.archive import Archive
    from trellis2_server.storage.store import Artifact

logger = logging.getLogger(__name__)

#: The files that anybody may want, in the order in which they are made.
FILES: Final = (INPUT_FILE, SHAPE_FILE, TEXTURED_FILE)
_FIELDS: Final = {SHAPE_FILE: "shape_glb", TEXTURED_FILE: "textured_glb"}
_GEOMETRY_GONE: Final = "the geometry of this job is not kept any more; send the picture again"


class Results:
    """What jobs leave. It belongs to the event loop's thread.

    Args:
        settings: limits.
        table: the jobs.
        listeners: who is told when a file is there, or lost.
        line: where exports are done.
        archive: what keeps the files.
        crew: who exports.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it works with
        self,
        settings: Settings,
        registry: JobRegistry,
        subscriptions: Subscriptions,
        scheduler: Scheduler,
        archive: Archive,
        executor: Executor,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._subscriptions = subscriptions
        self._scheduler = scheduler
        self._archive = archive
        self._executor = executor

    @property
    def notes(self) -> list[str]:
        """What the operator should know."""
        return self._archive.notes

    def note_kept(self, artifact: Artifact) -> None:
        """A file is there: make room for it, and tell those who listen to its job."""
        most = self._settings.worker.max_result_bytes
        while self._archive.size > most:
            job = self._registry.oldest_finished()
            if job is None or job.uid == artifact.uid:
                break
            logger.info("Job let go: worker.max_result_bytes", extra={"uid": job.uid})
            self.drop(job)
        self._subscriptions.stir(artifact.uid)

    def drop(self, job: Job) -> None:
        """Keep nothing of a finished job."""
        self._scheduler.tasks.pop(job.uid, None)
        self._registry.remove(job.uid)

    # ---- files -----------------------------------------------------------------------

    def files(self, job: Job) -> list[Artifact]:
        """The files that are there."""
        found = (self._archive.find(job.uid, name) for name in FILES)
        return [artifact for artifact in found if artifact]

    def file(self, job: Job, name: str) -> Artifact:
        """That one of them.

        Raises:
            JobNotFoundError: it is not there.
        """
        artifact = self._archive.find(job.uid, name)
        if artifact is None:
            is_to_come = not job.status.is_finished
            raise JobNotFoundError(
                f"{name} is not there yet" if is_to_come else f"this job has no {name}"
            )
        return artifact

    async def content(self, artifact: Artifact | None) -> bytes:
        """A file, exactly as it was made.

        Raises:
            JobNotFoundError: it was lost, or it is not kept any more; its job says so then.
            StoreError: it cannot be read just now.
        """
        if artifact is None:
            raise JobNotFoundError("there is no such file")
        try:
            return await self._archive.read(artifact)
        except StoreError as error:
            if not error.is_lost:
                raise
            self._note_loss(artifact, error)
            raise JobNotFoundError(f"{error}; send the picture again") from error

    def _note_loss(self, artifact: Artifact, error: StoreError) -> None:
        """Have the job say so; it matches no request any more."""
        field = _FIELDS.get(artifact.name)
        if field is None or artifact.uid not in self._registry:
            return
        job = self._registry[artifact.uid]
        changes: dict[str, Any] = {field: None}
        if job.status is Status.COMPLETED:
            changes |= {"status": Status.ERROR, "error": copy.copy(error)}
            self._scheduler.tasks.pop(job.uid, None)
        self._subscriptions.tell(self._registry.put(job.changed(self._scheduler.now(), **changes)))

    # ---- export once more --------------------------------------------------------------

    def can_export(self, job: Job) -> bool:
        """Whether the job's geometry is kept."""
        return self._archive.find(job.uid, SHAPE_SNAPSHOT) is not None

    async def export(self, job: Job, options: Options, *, texture: bool | None) -> bytes:
        """The job's model as a GLB, made again with other options.

        Args:
            job: what it is made from.
            options: the job's, with others for the export.
            texture: whether it is textured; None: where there is a texture.

        Raises:
            JobNotFoundError: its geometry, or its texture, is not kept.
            ServerError: it could not be exported.
        """
        shape = self._archive.find(job.uid, SHAPE_SNAPSHOT)
        field = self._archive.find(job.uid, FIELD_SNAPSHOT)
        if shape is None:
            raise JobNotFoundError(_GEOMETRY_GONE)
        if texture and field is None:
            raise JobNotFoundError("the texture of this job is not kept; send the picture again")
        if texture is False:
            field = None
        return await self._scheduler.run(
            partial(
                self._executor.export_again,
                job.engine,
                await self._geometry(shape),
                await self._geometry(field) if field else None,
                options,
            )
        )

    async def _geometry(self, artifact: Artifact) -> bytes:
        try:
            return await self._archive.read(artifact)
        except StoreError as error:
            if not error.is_lost:
                raise
            raise JobNotFoundError(_GEOMETRY_GONE) from error
