from __future__ import annotations

from typing import Any

import pytest

from trellis2_server.storage.index import ArchiveIndex
from trellis2_server.storage.pending_writes import Batch, PendingWrites
from trellis2_server.storage.store import Artifact, JobName

FILE = Artifact("a", "textured.glb", 3)


def replaced_while_it_is_written(*, was_bulk: bool, is_bulk: bool) -> PendingWrites:
    """Return changes of which a file is being written that was stored again since."""
    index = ArchiveIndex()
    index.records["a"] = "record"
    pending = PendingWrites(index)
    pending.add_file(FILE, b"old", is_bulk=was_bulk)
    assert pending.take().files == {FILE: b"old"}
    pending.cancel_file(FILE)
    pending.next.deleted_files.add(FILE)
    pending.add_file(FILE, b"new", is_bulk=is_bulk)
    return pending


@pytest.mark.parametrize("is_bulk", [False, True])
@pytest.mark.parametrize("was_bulk", [False, True])
def test_a_file_that_was_stored_again_stays_readable_until_it_is_written(
    *, was_bulk: bool, is_bulk: bool
) -> None:
    pending = replaced_while_it_is_written(was_bulk=was_bulk, is_bulk=is_bulk)
    assert pending.finish() == []
    assert pending.unwritten == {FILE: b"new"}
    batch = pending.take()
    assert batch.deleted_files == {FILE}
    if is_bulk:
        assert not batch.files
        assert pending.finish() == []
        batch = pending.take()
    assert batch.files == {FILE: b"new"}
    assert pending.unwritten == {FILE: b"new"}
    assert pending.finish() == [FILE]
    assert not pending.unwritten
    assert not pending


@pytest.mark.parametrize("is_bulk", [False, True])
@pytest.mark.parametrize("was_bulk", [False, True])
def test_a_file_that_failed_and_was_stored_again_is_written_once(
    *, was_bulk: bool, is_bulk: bool
) -> None:
    pending = replaced_while_it_is_written(was_bulk=was_bulk, is_bulk=is_bulk)
    pending.requeue()
    written: list[bytes] = []
    while pending:
        written += pending.take().files.values()
        pending.finish()
    assert written == [b"new"]


def test_a_batch_concerns_the_jobs_of_its_records_and_names_unless_it_is_bulk() -> None:
    batch = Batch(records={"a": "record"}, names={("key", "k"): JobName("key", "k", "b")})
    assert [batch.concerns(uid) for uid in ("a", "b", "c")] == [True, True, False]
    batch.is_bulk = True
    assert batch.concerns("a") is False
    assert Batch(files={FILE: b"abc"}).concerns("a") is False  # comes with its record


def test_a_deleted_job_leaves_no_record_and_no_name_to_write() -> None:
    pending = PendingWrites(ArchiveIndex())
    for uid in ("a", "b"):
        pending.next.records[uid] = "record"
        pending.next.names["key", uid] = JobName("key", uid, uid)
    pending.delete_jobs({"a"}, [("key", "a"), ("key", "not here")])
    batch = pending.take()
    assert (batch.records, [*batch.names]) == ({"b": "record"}, [("key", "b")])
    assert batch.deleted_jobs == {"a"}


@pytest.mark.parametrize(
    "named",
    [{"deleted_jobs": {"a"}}, {"deleted_files": {FILE}}, {"files": {FILE: b"abc"}},
     {"records": {"a": "record"}}, {"names": {("key", "k"): JobName("key", "k", "a")}}],
    ids=["deleted jobs", "deleted files", "files", "records", "names"],
)  # fmt: skip
def test_any_change_makes_a_batch(named: dict[str, Any]) -> None:
    assert Batch(**named)
    assert not Batch(is_bulk=True)
    pending = PendingWrites(ArchiveIndex())
    assert not pending
    pending.next = Batch(**named)
    assert pending


def with_jobs(*uids: str) -> PendingWrites:
    index = ArchiveIndex()
    for uid in uids:
        index.records[uid] = f"record of {uid}"
    return PendingWrites(index)


def test_bulk_files_come_one_at_a_time_after_everything_else_with_their_record() -> None:
    pending = with_jobs("a", "b")
    files = [Artifact("a", "shape.kept", 1), Artifact("b", "shape.kept", 1)]
    for artifact in files:
        pending.add_file(artifact, b"x", is_bulk=True)
    assert pending
    assert pending.find("a") is None  # nobody waits for them
    pending.add_file(FILE, b"abc", is_bulk=False)
    assert pending.find("a") is pending.next
    taken = [pending.take() for _ in range(4)]
    assert [list(batch.files) for batch in taken] == [[FILE], [files[0]], [files[1]], []]
    assert [batch.is_bulk for batch in taken] == [False, True, True, False]
    assert taken[1].records == {"a": "record of a"}
    assert not pending


def test_a_bulk_file_whose_job_is_gone_is_passed_over() -> None:
    pending = with_jobs("b")
    pending.add_file(Artifact("a", "shape.kept", 1), b"x", is_bulk=True)
    pending.add_file(Artifact("b", "shape.kept", 1), b"x", is_bulk=True)
    assert list(pending.take().files) == [Artifact("b", "shape.kept", 1)]
    assert not pending


def test_a_job_is_being_deleted_until_that_is_written() -> None:
    pending = with_jobs("b")
    pending.delete_jobs({"a"}, [])
    pending.delete_jobs({"c"}, [])
    assert [pending.is_deleting(uid) for uid in "abc"] == [True, False, True]
    batch = pending.take()
    assert [pending.is_deleting(uid) for uid in "abc"] == [True, False, True]
    pending.delete_jobs({"b"}, [])
    pending.requeue()
    assert pending.next.deleted_jobs == {"a", "b", "c"}
    assert pending.current.ended is batch.ended
    pending.take()
    pending.finish()
    assert not any(pending.is_deleting(uid) for uid in "abc")


def test_what_failed_is_queued_again_before_what_came_since_without_what_is_gone() -> None:
    pending = with_jobs("a", "b")
    other = Artifact("b", "shape.glb", 1)
    names = {("key", uid): JobName("key", uid, uid) for uid in ("a", "b", "c")}
    pending.next.records = {"a": "old", "b": "old", "gone": "old"}
    pending.next.names = dict(names)
    pending.next.deleted_files = {Artifact("b", "gone.glb", 1)}
    pending._index.names = {key: name for key, name in names.items() if name.uid != "c"}
    pending.add_file(FILE, b"abc", is_bulk=False)
    pending.add_file(other, b"x", is_bulk=False)
    pending.take()
    pending.cancel_file(other)
    assert pending.unwritten == {FILE: b"abc"}
    later = Artifact("a", "shape.glb", 1)
    pending.add_file(later, b"y", is_bulk=False)
    pending.next.records["a"] = "new"
    moved = JobName("key", "a", "b")
    pending.next.names["key", "a"] = moved
    pending.requeue()
    queued = pending.next
    assert queued.records == {"a": "new", "b": "old"}
    assert queued.names == {("key", "a"): moved, ("key", "b"): names["key", "b"]}
    assert list(queued.files.items()) == [(FILE, b"abc"), (later, b"y")]
    assert queued.deleted_files == {Artifact("b", "gone.glb", 1)}


def test_a_bulk_file_that_failed_is_the_first_of_the_bulk_files_again() -> None:
    pending = with_jobs("a")
    files = [Artifact("a", name, 1) for name in ("shape.kept", "field.kept")]
    for artifact in files:
        pending.add_file(artifact, b"x", is_bulk=True)
    pending.take()
    pending.requeue()
    assert not pending.next
    assert [list(pending.take().files) for _ in range(2)] == [[files[0]], [files[1]]]


def test_everything_can_be_queued_again() -> None:
    pending = with_jobs("a", "b")
    pending._index.add_name(JobName("key", "k", "a"))
    pending.next.records["a"] = "old"
    pending.add_everything()
    assert pending.next.records == pending._index.records
    assert pending.next.records is not pending._index.records
    assert pending.next.names == {("key", "k"): JobName("key", "k", "a")}
    assert pending.next.names is not pending._index.names
