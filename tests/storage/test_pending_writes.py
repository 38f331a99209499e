from __future__ import annotations

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
