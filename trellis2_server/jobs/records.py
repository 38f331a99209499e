"""`JobRecords`: writes the registry's jobs and names to the archive, and reads them back.

A job that was not finished when the process ended is an error afterwards. The files that it had
made stay. A record has a checksum; one that was damaged costs its job only.

Does not know: threads, HTTP, where the archive stores records.
"""

from __future__ import annotations

import functools
import json
import logging
import time
import zlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from trellis2_server import errors
from trellis2_server.errors import ServerError, ShuttingDownError, StoreError
from trellis2_server.jobs.job import SHAPE_FILE, TEXTURED_FILE, Job, Status
from trellis2_server.parameters import Delivery, Options, read_options
from trellis2_server.settings import Settings
from trellis2_server.storage.store import JobName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trellis2_server.jobs.registry import JobRegistry
    from trellis2_server.storage.archive import Archive
    from trellis2_server.storage.store import Artifact, SavedJob, StoreContents

logger = logging.getLogger(__name__)

RESTARTED: Final = "the server was restarted"
#: Key of a record's checksum. Earlier versions ignore it.
_CHECKSUM: Final = "crc32"
#: Kinds of names that stand for a time; see `JobJournal.name`.
_TIMES: Final = frozenset({"asked", "used"})


class JobRecords:
    """Writes what the registry holds; a `JobJournal`.

    Args:
        archive: where records are written.
        clock: the manager's, monotonic seconds.
    """

    def __init__(self, archive: Archive, clock: Callable[[], float]) -> None:
        self._archive = archive
        self._clock = clock
        self._recorded: dict[str, tuple[object, ...]] = {}

    # ---- writing ---------------------------------------------------------------------

    def note(self, job: Job) -> None:
        """Record a job, if the recorded part of it has changed."""
        recorded_state = (
            job.status, job.image_hash, job.resolution, job.warnings, job.shape_glb,
            job.textured_glb, len(job.timings), job.details,
        )  # fmt: skip
        if self._recorded.get(job.uid) != recorded_state:
            self._recorded[job.uid] = recorded_state
            self._archive.save_record(job.uid, _text(job) if self._archive.is_persistent else "")

    def name(self, kind: str, name: str, uid: str, payload: object = None) -> None:
        """Record a further name of a job."""
        if self._archive.is_persistent:
            text = json.dumps(asdict(payload) if isinstance(payload, Delivery) else payload)
            self._archive.save_name(JobName(kind, name, uid, text))

    def remove(self, uid: str) -> None:
        """Remove the record of a job."""
        self._recorded.pop(uid, None)
        self._archive.remove([uid])

    # ---- reading back ----------------------------------------------------------------

    def restore(self, opened: StoreContents, registry: JobRegistry) -> None:
        """Put the stored jobs and names into the registry."""
        jobs: list[Job] = []
        for saved in opened.jobs:
            job = self._restored(saved)
            if job is None:
                self._archive.remove([saved.uid])
            else:
                jobs.append(job)
        known = {job.uid for job in jobs}
        names = [name for name in opened.names if _is_valid(name)]
        asked = {name.uid: _meaning(name) for name in names if name.kind == "asked"}
        for job in sorted(jobs, key=lambda job: asked.get(job.uid) or job.created_unix_s):
            registry.put(job)
        for name in names:
            if name.uid in known and name.kind not in _TIMES:
                registry.restore_name(name.kind, name.name, name.uid, _meaning(name))
        now_unix_s, now = time.time(), self._clock()
        registry.restore_requests(
            {
                # The system's clock may have been set back since.
                name.uid: now - max(now_unix_s - _meaning(name), 0.0)
                for name in names
                if name.uid in known and name.kind in _TIMES
            }
        )
        if jobs:
            logger.info("Stored jobs are served", extra={"jobs": len(jobs)})

    def _restored(self, saved: SavedJob) -> Job | None:
        try:
            return self._job(saved)
        except Exception:  # whatever is in it, the other jobs are served
            logger.exception("A record cannot be read", extra={"uid": saved.uid})
            return None

    def _job(self, saved: SavedJob) -> Job:
        record = _read(saved)
        now_unix_s, now = time.time(), self._clock()
        status, error = Status(record["status"]), _error(record["error"])
        ended_unix_s: float | None = record["finished"]
        if not status.is_finished or isinstance(error, ShuttingDownError):
            status, error = Status.ERROR, ServerError(RESTARTED)
            ended_unix_s = ended_unix_s or now_unix_s
        files = {name: saved.files.get(name) for name in record["files"]}
        lost = [name for name, artifact in files.items() if artifact is None]
        if lost and error is None:
            status, error = Status.ERROR, StoreError(f"{lost[0]} is lost", is_lost=True)
        # An older version had fewer options.
        options = asdict(read_options({}, Settings())) | record["options"]
        # The system's clock may have been set back since.
        age_s = max(now_unix_s - record["created"], 0.0)
        created_at = now - age_s
        finished_at = (
            min(now, created_at + ended_unix_s - record["created"]) if ended_unix_s else now
        )
        return Job(
            uid=saved.uid,
            options=_adapter(Options).validate_json(json.dumps(options)),
            engine=record["engine"],
            created_at=created_at,
            owner=record["owner"],
            created_unix_s=record["created"],
            status=status,
            image_hash=record["image_hash"],
            background=record["background"],
            warnings=tuple(record["warnings"]),
            resolution=record["resolution"],
            shape_glb=files.get(SHAPE_FILE),
            shape_md5=record["shape_md5"] if files.get(SHAPE_FILE) else None,
            textured_glb=files.get(TEXTURED_FILE),
            error=error,
            finished_at=finished_at,
            timings=record["timings"],
            details=record.get("details", {}),
        )


def _text(job: Job) -> str:
    files: list[Artifact | None] = [job.shape_glb, job.textured_glb]
    record: Mapping[str, object] = {
        "engine": job.engine,
        "owner": job.owner,
        "created": job.created_unix_s,
        "finished": job.finished_unix_s,
        "status": job.status.value,
        "image_hash": job.image_hash,
        "background": job.background,
        "warnings": job.warnings,
        "resolution": job.resolution,
        "shape_md5": job.shape_md5,
        "files": [artifact.name for artifact in files if artifact],
        "error": [type(job.error).__name__, str(job.error)] if job.error else None,
        "timings": dict(job.timings),
        "options": _option_values(job.options),
        **({"details": dict(job.details)} if job.details else {}),
    }
    text = json.dumps(record)
    return json.dumps({**record, _CHECKSUM: _checksum(job.uid, text)})


@functools.lru_cache(maxsize=256)
def _option_values(options: Options) -> Mapping[str, object]:
    """Return the options as JSON values: a job has about ten records with the same ones."""
    return asdict(options)


def _read(saved: SavedJob) -> dict[str, Any]:
    """Return what a record says. Those of earlier versions have no checksum.

    Raises:
        ValueError: it was damaged.
    """
    record: dict[str, Any] = json.loads(saved.record)
    checksum = record.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _checksum(saved.uid, json.dumps(record)):
        raise ValueError("the checksum is wrong")
    return record


def _checksum(uid: str, text: str) -> int:
    return zlib.crc32(f"{uid} {text}".encode())


def _meaning(name: JobName) -> Any:
    """Return what a stored name stands for.

    Raises:
        ValueError: the record is invalid.
    """
    payload = json.loads(name.payload)
    if name.kind == "ticket":
        return _adapter(Delivery).validate_python(payload)
    return float(payload) if name.kind in _TIMES else None


def _is_valid(name: JobName) -> bool:
    try:
        _meaning(name)
    except (ValueError, TypeError):
        logger.warning("A name cannot be read", extra={"uid": name.uid, "kind": name.kind})
        return False
    return True


def _error(recorded: list[str] | None) -> ServerError | None:
    if recorded is None:
        return None
    name, text = recorded
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, ServerError):
        return kind(text)
    return ServerError(text)


@functools.cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
