"""`JobMatcher`: finds the job that a request already has, so that nothing is computed twice.

A request matches a job by its upload and options or, after the cut-out, by the picture that the
model sees and the options. A mesh that is the untextured GLB of a job, with that job's picture,
matches that job.

Does not know: HTTP, threads, how a job is worked on.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from trellis2_server.jobs.job import image_hash_of

if TYPE_CHECKING:
    from collections.abc import Hashable

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.observers import JobObserver
    from trellis2_server.jobs.queue import ActiveJob
    from trellis2_server.jobs.uploads import Upload, Uploads
    from trellis2_server.parameters import Options

logger = logging.getLogger(__name__)


class JobMatcher:
    """Finds matching jobs, and merges jobs that turn out to be the same.

    Args:
        active_jobs: the jobs in progress.
        uploads: the image hashes of uploads.
        observer: notified of each match.
    """

    def __init__(self, active_jobs: ActiveJobs, uploads: Uploads, observer: JobObserver) -> None:
        self._active_jobs = active_jobs
        self._registry = active_jobs.registry
        self._uploads = uploads
        self._observer = observer

    def find_by_upload(self, upload: Upload, options: Options, *, texture: bool) -> Job | None:
        """Return the job that the upload matches, if it has or will have what is requested."""
        key = upload_key(upload, options)
        job = None if key is None else self._registry.find_by_key(key)
        job = job or self._find_by_own_mesh(options, self._uploads.image_hash(upload), upload.owner)
        if job is None or not self._can_provide(job, texture=texture):
            return None
        self._observer.note_match("upload")
        return job

    def find_by_cutout(self, active: ActiveJob, cutout: Cutout) -> Job | None:
        """Return the job that the picture matches; where there is none, later ones match this.

        The image hash is remembered for the upload in any case.
        """
        self._uploads.remember(active.upload, cutout)
        job = self._active_jobs.record(active)
        if job.options.is_seed_random:
            return None
        key = ("cutout", job.owner, cutout.key, job.options)
        known = self._registry.find_by_key(key) or self._find_by_own_mesh(
            job.options, cutout.image_hash, job.owner
        )
        if known is not None and self._can_provide(known, texture=active.wants_texture):
            return known
        self._registry.bind_key(key, active.uid)
        return None

    def merge(self, active: ActiveJob, known: Job) -> None:
        """Replace a job by a known one: its uid, subscriptions and waiters follow that job."""
        self._observer.note_match("picture")
        logger.info("Job merged", extra={"uid": active.uid, "into": known.uid})
        options = self._active_jobs.record(active).options
        self._active_jobs.discard(active.uid)
        self._registry.merge(active.uid, known.uid)
        self._active_jobs.note_request(known.uid)
        self._active_jobs.subscriptions.redirect(active.uid, known)
        self._registry.bind_key(upload_key(active.upload, options), known.uid)

    def follow(self, active: ActiveJob, known: Job) -> None:
        """Answer requests that wait for a merged job's shape with that of the known job."""
        other = self._active_jobs.get(known.uid)
        if other is None:
            active.shape_done.set_result(known)
        else:
            other.shape_done.add_done_callback(
                lambda done: active.shape_done.set_result(done.result())
            )

    def _can_provide(self, job: Job, *, texture: bool) -> bool:
        if job.shape_error is not None:
            return False
        # A job that is not active has only what was made: nothing more is made for it.
        if job.shape_glb is not None and (job.textured_glb is not None or not texture):
            return True
        active = self._active_jobs.get(job.uid)
        return active is not None and not (texture and active.texture_error)

    def _find_by_own_mesh(self, options: Options, image_hash: str | None, owner: str) -> Job | None:
        """Return the job of that picture whose untextured GLB is the mesh to be textured."""
        is_as_made = not options.geo_rotation and options.up_axis != "z" and options.uv == "new"
        if not is_as_made or not options.mesh:
            return None
        job = self._registry.find_by_shape(options.mesh, owner)
        if job is None or image_hash is None:
            return None
        # Jobs with a mesh that an earlier version stored have the hash of their picture.
        known = (image_hash, image_hash_of(image_hash, job.options))
        return job if job.image_hash in known else None


def upload_key(upload: Upload, options: Options) -> Hashable:
    """Return the key of a request before its cut-out; None: it matches no other request."""
    return None if options.is_seed_random else ("upload", upload, options)
