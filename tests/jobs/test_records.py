"""Records of jobs: what is written, and what is read back after a restart."""

from __future__ import annotations

import json
import time
import uuid
import zlib
from dataclasses import replace
from typing import Any

import pytest

from tests.support.managers import Clock, options
from trellis2_server import errors
from trellis2_server.errors import (
    EngineError,
    JobCancelledError,
    OutOfMemoryError,
    ServerError,
    ShuttingDownError,
    StoreError,
)
from trellis2_server.jobs.job import Job, Progress, Status
from trellis2_server.jobs.records import RESTARTED, JobRecords
from trellis2_server.jobs.registry import JobRegistry
from trellis2_server.parameters import Delivery
from trellis2_server.storage.store import Artifact, JobName, SavedJob, StoreContents

UID = str(uuid.UUID(int=7))
SHAPE, TEXTURED = Artifact(UID, "shape.glb", 3), Artifact(UID, "textured.glb", 4)
FILES = {"shape.glb": SHAPE, "textured.glb": TEXTURED}


class Notebook:
    """An archive that keeps what is written into it."""

    def __init__(self, *, is_persistent: bool = True) -> None:
        self.is_persistent = is_persistent
        self.saved: list[tuple[str, str]] = []
        self.names: list[JobName] = []
        self.removed: list[str] = []

    def save_record(self, uid: str, record: str) -> None:
        self.saved.append((uid, record))

    def save_name(self, name: JobName) -> None:
        self.names.append(name)

    def remove(self, uids: list[str]) -> None:
        self.removed += uids


def records(notebook: Any, now: float = 1000.0) -> JobRecords:
    clock = Clock()
    clock.now = now
    return JobRecords(notebook, clock)


def finished(**changes: Any) -> Job:
    """A job that was made ten seconds ago, and ended four seconds ago."""
    job = Job(
        UID, options(7, remesh=False), "preview", 990.0, owner="alice",
        created_unix_s=time.time() - 10.0, status=Status.COMPLETED, image_hash="a" * 32,
        background="alpha", warnings=("dark", "coarse"), resolution=512, shape_glb=SHAPE,
        shape_md5="b" * 32, textured_glb=TEXTURED, finished_at=996.0, timings={"shape": 1.5},
        details={"depth": "round"},
    )  # fmt: skip
    return replace(job, **changes)


def restored(job: Job, files: Any = FILES, *, now: float = 1000.0, edit: Any = None) -> Job | None:
    """What a later process, whose clock shows `now`, makes of the record of a job."""
    notebook = Notebook()
    records(notebook).note(job)
    [(uid, record)] = notebook.saved
    if edit is not None:
        document = json.loads(record)
        edit(document)
        record = json.dumps(document)
    later, registry = Notebook(), JobRegistry()
    records(later, now).restore(StoreContents((SavedJob(uid, record, files),), ()), registry)
    assert later.removed == ([] if uid in registry else [uid])
    return next(iter(registry), None)


def test_a_finished_job_is_restored_as_it_was() -> None:
    job = finished()
    again = restored(job, now=5000.0)
    assert again is not None
    for name in Job.__slots__:
        if name not in {"created_at", "finished_at"}:
            assert getattr(again, name) == getattr(job, name), name
    assert again.created_at == pytest.approx(4990.0, abs=1)
    assert again.finished_at == pytest.approx(4996.0, abs=1)
    assert again.finished_unix_s == pytest.approx(job.finished_unix_s, abs=0.01)


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (Status.COMPLETED, None, (Status.COMPLETED, None)),
        (Status.ERROR, EngineError("no"), (Status.ERROR, EngineError)),
        (Status.ERROR, OutOfMemoryError("no"), (Status.ERROR, OutOfMemoryError)),
        (Status.CANCELLED, JobCancelledError("no"), (Status.CANCELLED, JobCancelledError)),
        (Status.CANCELLED, ShuttingDownError("no"), (Status.ERROR, ServerError)),
        (Status.SHAPE_PROCESSING, None, (Status.ERROR, ServerError)),
        (Status.TEXTURE_PROCESSING, None, (Status.ERROR, ServerError)),
    ],
)
def test_only_a_job_that_was_not_finished_is_an_error_afterwards(
    status: Status, error: Any, expected: tuple[Status, Any]
) -> None:
    ended = 996.0 if status.is_finished else None
    again = restored(finished(status=status, error=error, finished_at=ended))
    assert again is not None
    assert (again.status, again.error and type(again.error)) == expected
    if expected[1] is ServerError:
        assert str(again.error) == RESTARTED
        assert again.finished_at == pytest.approx(ended or 1000.0, abs=1)
    elif again.error is not None:
        assert str(again.error) == "no"
    assert (again.shape_glb, again.textured_glb) == (SHAPE, TEXTURED)


@pytest.mark.parametrize("name", ["NoSuchError", "ServerError", "INTERNAL", "annotations"])
def test_an_error_of_another_version_is_an_error(name: str) -> None:
    def rename(record: dict[str, Any]) -> None:
        record["error"][0] = name
        del record["crc32"]

    again = restored(finished(status=Status.ERROR, error=EngineError("no")), edit=rename)
    assert again is not None
    assert type(again.error) is ServerError
    assert str(again.error) == "no"
    assert not isinstance(getattr(errors, name, None), str)


@pytest.mark.parametrize("name", FILES)
def test_a_completed_job_whose_file_is_gone_is_lost(name: str) -> None:
    left = {key: value for key, value in FILES.items() if key != name}
    again = restored(finished(), left)
    assert again is not None
    assert again.status is Status.ERROR
    assert isinstance(again.error, StoreError)
    assert (again.error.is_lost, str(again.error)) == (True, f"{name} is lost")
    assert again.shape_md5 == ("b" * 32 if "shape.glb" in left else None)
    failed = restored(finished(status=Status.ERROR, error=EngineError("no")), left)
    assert failed is not None
    assert type(failed.error) is EngineError


def test_files_that_are_not_of_the_record_are_not_taken_over() -> None:
    again = restored(finished(textured_glb=None))
    assert again is not None
    assert (again.shape_glb, again.textured_glb) == (SHAPE, None)


def test_a_clock_that_was_set_back_makes_no_job_of_the_future() -> None:
    again = restored(finished(created_unix_s=time.time() + 5000.0))
    assert again is not None
    assert again.created_at <= 1000.0
    assert again.finished_at is not None
    assert again.created_at <= again.finished_at <= 1000.0


def test_a_job_that_ended_just_now_did_not_end_later() -> None:
    again = restored(finished(created_unix_s=time.time() - 5.0, created_at=0.0, finished_at=900.0))
    assert again is not None
    assert again.finished_at == 1000.0


def test_an_option_that_is_new_has_its_default_for_an_old_record() -> None:
    def forget(record: dict[str, Any]) -> None:
        del record["options"]["remesh"]
        del record["crc32"]

    again = restored(finished(), edit=forget)
    assert again is not None
    assert again.options == replace(finished().options, remesh=options().remesh)


@pytest.mark.parametrize("key", ["status", "owner", "finished", "options", "crc32"])
def test_a_record_that_was_changed_is_not_believed(key: str) -> None:
    def change(record: dict[str, Any]) -> None:
        record[key] = 1 if key == "crc32" else "completed "

    assert restored(finished(), edit=change) is None


def test_the_checksum_is_that_of_the_record_and_its_job() -> None:
    notebook = Notebook()
    records(notebook).note(finished())
    document = json.loads(notebook.saved[0][1])
    checksum = document.pop("crc32")
    assert checksum == zlib.crc32(f"{UID} {json.dumps(document)}".encode())


def test_a_job_is_recorded_when_something_of_its_record_has_changed() -> None:
    notebook, job = Notebook(), finished(status=Status.SHAPE_PROCESSING, finished_at=None)
    written = records(notebook)
    states: list[tuple[dict[str, Any], bool]] = [
        ({}, True), ({}, False), ({"progress": Progress("shape", 0.5)}, False),
        ({"status": Status.TEXTURE_PROCESSING}, True), ({"image_hash": "c" * 32}, True),
        ({"resolution": 8}, True), ({"warnings": ("new",)}, True), ({"shape_glb": None}, True),
        ({"textured_glb": None}, True), ({"timings": {"shape": 1.0, "texture": 2.0}}, True),
        ({}, False),
    ]  # fmt: skip
    for changes, is_written in states:
        job = replace(job, **changes)
        before = len(notebook.saved)
        written.note(job)
        assert (len(notebook.saved) > before) is is_written, changes
    written.remove(UID)
    assert notebook.removed == [UID]
    written.note(job)
    assert len(notebook.saved) == before + 1


def test_without_a_folder_nothing_is_serialized() -> None:
    notebook = Notebook(is_persistent=False)
    written = records(notebook)
    written.note(finished())
    written.name("key", "digest", UID)
    assert (notebook.saved, notebook.names) == ([(UID, "")], [])


DELIVERY = Delivery(texture=False, type="obj")


def test_names_and_times_are_restored() -> None:
    notebook = Notebook()
    written = records(notebook)
    older = replace(finished(), uid=str(uuid.UUID(int=8)), created_unix_s=time.time() - 20.0)
    for job in (finished(), older):
        written.note(job)
    alias, merged = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
    written.name("ticket", alias, UID, DELIVERY)
    written.name("alias", merged, UID)
    written.name("key", "digest", UID)
    written.name("asked", older.uid, older.uid, time.time() - 1.0)
    written.name("used", older.uid, older.uid, time.time() - 2.0)
    written.name("used", UID, UID, time.time() + 500.0)  # the clock was set back since
    written.name("ticket", "lost", str(uuid.UUID(int=9)), DELIVERY)
    damaged = [JobName("ticket", "a", UID, "{}"), JobName("used", "b", UID, '"x"'),
               JobName("asked", "c", UID, "?"), JobName("used", "d", UID, "null")]  # fmt: skip
    saved = tuple(SavedJob(uid, record, FILES) for uid, record in notebook.saved)
    registry = JobRegistry()
    contents = StoreContents(saved, (*damaged, *notebook.names))
    records(Notebook()).restore(contents, registry)
    assert registry.get(alias, "alice").uid == registry.get(merged, "alice").uid == UID
    assert registry.alias_delivery(alias) == DELIVERY
    assert registry.alias_delivery("lost") is None
    # Asked for last, the older one has the hash of both; it was used two seconds ago.
    assert registry.get("a" * 32, "alice").uid == older.uid
    assert [job.uid for job in registry.oldest_finished(9)] == [older.uid, UID]
    assert [job.uid for job in registry.remove_aged(999.0)] == [older.uid]
    assert [job.uid for job in registry.remove_aged(1000.1)] == [UID]
