from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis2_server.errors import EngineError, JobNotFoundError
from trellis2_server.jobs.job import TRANSITIONS, Job, Progress, Status
from trellis2_server.jobs.registry import JobRegistry
from trellis2_server.parameters import read_options
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Hashable

OPTIONS = read_options({"seed": 1}, Settings())
HASH = "0123456789abcdef" * 2


def job(**changes: Any) -> Job:
    return Job(uid=str(uuid.uuid4()), options=OPTIONS, engine="gated", created_at=0.0, **changes)


def test_every_status_has_its_transitions() -> None:
    assert set(TRANSITIONS) == set(Status)


@given(st.sampled_from(Status), st.sampled_from(Status))
def test_a_status_changes_only_along_a_transition(begin: Status, end: Status) -> None:
    known = job(status=begin, progress=Progress("shape", 0.5))
    if begin is end:
        assert known.changed(1.0, status=end).progress is not None
    elif end in TRANSITIONS[begin]:
        changed = known.changed(7.0, status=end)
        assert changed.progress is None
        assert changed.finished_at == (7.0 if end.is_finished else None)
    else:
        with pytest.raises(ValueError, match="cannot go from"):
            known.changed(1.0, status=end)


@given(st.lists(st.sampled_from(Status), max_size=8))
def test_a_failed_or_cancelled_job_stays_so(wanted: list[Status]) -> None:
    known = job()
    for status in wanted:
        over = known.status in {Status.ERROR, Status.CANCELLED}
        if status in TRANSITIONS[known.status]:
            assert not over
            known = known.changed(0.0, status=status)
    assert (known.finished_at is not None) == known.status.is_finished


@pytest.mark.parametrize("name", ["", "no", "0" * 31, "g" * 32, "../etc/passwd", "0" * 36])
def test_an_invalid_name_is_not_found(name: str) -> None:
    with pytest.raises(JobNotFoundError, match="named by an image hash"):
        JobRegistry().get(name)


def test_a_job_is_found_by_uid_and_hash_in_any_case() -> None:
    registry = JobRegistry()
    known = registry.put(job(image_hash=HASH))
    assert registry.get(known.uid.upper()) is known
    assert registry.get(f" {HASH.upper()} ") is known


def test_a_hash_refers_to_the_job_requested_last_even_if_cut_out_first() -> None:
    registry = JobRegistry()
    first, second = registry.put(job()), registry.put(job())
    registry.put(second.changed(0.0, image_hash=HASH))
    registry.put(first.changed(0.0, image_hash=HASH))
    assert registry.get(HASH).uid == second.uid
    registry.bind_key("key", first.uid)
    registry.find_by_key("key")
    assert registry.get(HASH).uid == first.uid
    assert registry.get(second.uid).uid == second.uid


def test_a_job_with_a_mesh_has_the_hash_of_a_picture_only_where_no_other_has_it() -> None:
    """As the records of an earlier version have it."""
    registry = JobRegistry()
    given = registry.put(replace(job(image_hash=HASH), options=replace(OPTIONS, mesh="a" * 32)))
    assert registry.get(HASH).uid == given.uid
    own = registry.put(job(image_hash=HASH))
    registry.bind_key("key", given.uid)
    registry.find_by_key("key")
    assert registry.get(HASH).uid == own.uid
    registry.remove(own.uid)
    assert registry.get(HASH).uid == given.uid


def test_a_failed_job_matches_nothing() -> None:
    registry = JobRegistry()
    known = registry.put(job())
    registry.bind_key("key", known.uid)
    assert registry.find_by_key("key") is known
    registry.put(known.changed(1.0, status=Status.ERROR, error=EngineError("no")))
    assert registry.find_by_key("key") is None
    assert registry.find_by_key(None) is None


class Journal:
    """Notes the names that are recorded, and restores them in another registry."""

    def __init__(self) -> None:
        self.names: list[tuple[str, str]] = []
        self.stored: dict[tuple[str, str], tuple[str, Hashable]] = {}

    def note(self, job: Job) -> None: ...

    def name(self, kind: str, name: str, uid: str, payload: Hashable = None) -> None:
        self.names.append((kind, uid))
        self.stored[kind, name] = uid, payload

    def remove(self, uid: str) -> None: ...

    def restore(self, registry: JobRegistry) -> None:
        for (kind, name), (uid, payload) in self.stored.items():
            registry.restore_name(kind, name, uid, payload)


def test_a_job_with_the_aliases_of_a_merged_one_can_be_removed_after_a_restart() -> None:
    journal = Journal()
    before, after = JobRegistry(journal), JobRegistry()
    kept, merged = before.put(job(image_hash=HASH)), before.put(job())
    aliases = [before.create_alias(each, "obj") for each in (kept, merged)]
    before.merge(merged.uid, kept.uid)
    after.put(kept)
    journal.restore(after)
    assert {after.get(alias).uid for alias in aliases} == {kept.uid}
    after.remove(kept.uid)
    for alias in aliases:
        with pytest.raises(JobNotFoundError):
            after.get(alias)


def test_a_job_that_is_asked_for_every_second_is_recorded_once_a_minute() -> None:
    journal = Journal()
    registry = JobRegistry(journal)
    known = registry.put(job())
    registry.note_request(known.uid, 1.0)
    assert journal.names == []  # it is not finished: it does not age
    registry.put(known.changed(2.0, status=Status.COMPLETED))
    for second in range(2, 302):
        registry.note_request(known.uid, float(second))
    assert journal.names == [("used", known.uid)] * 4
    assert registry.remove_aged(301.0) == []
    assert [aged.uid for aged in registry.remove_aged(301.5)] == [known.uid]


# ---- names, clients, owners ----------------------------------------------------------------------


def test_clients_of_a_job_come_and_go() -> None:
    registry = JobRegistry()
    known, other = registry.put(job()), registry.put(job())
    for client in ("a", "b", "a"):
        registry.add_client(known.uid, client)
    assert registry.clients(known.uid) == {"a", "b"}
    assert registry.clients(other.uid) == registry.clients("unknown") == frozenset()
    assert not registry.remove_client(known.uid, "a")
    assert registry.remove_client(known.uid, "never asked")
    assert registry.remove_client(known.uid, "b")
    assert registry.clients(known.uid) == frozenset()


def test_a_merged_job_leaves_its_clients_and_names_to_the_known_one() -> None:
    journal = Journal()
    registry = JobRegistry(journal)
    known, merged, third = (registry.put(job(image_hash=HASH)) for _ in range(3))
    registry.add_client(known.uid, "a")
    registry.add_client(merged.uid, "b")
    alias = registry.create_alias(merged, "obj")
    other = registry.create_alias(third, "obj")
    registry.merge(merged.uid, known.uid)
    assert registry.clients(known.uid) == {"a", "b"}
    assert merged.uid not in registry
    assert registry[merged.uid] is known
    assert registry.get(alias).uid == registry.get(merged.uid).uid == known.uid
    assert registry.get(other).uid == third.uid
    assert registry.alias_delivery(f" {alias.upper()} ") == "obj"
    assert registry.alias_delivery(merged.uid) is None
    assert journal.stored["alias", merged.uid] == (known.uid, None)
    assert journal.stored["ticket", alias] == (known.uid, "obj")
    assert journal.stored["ticket", other] == (third.uid, "obj")
    registry.remove(third.uid)
    with pytest.raises(JobNotFoundError):
        registry.get(other)
    assert registry.alias_delivery(other) is None
    assert registry.get(alias).uid == known.uid


def test_the_same_delivery_of_a_job_has_one_alias() -> None:
    journal = Journal()
    registry = JobRegistry(journal)
    known, other = registry.put(job()), registry.put(job())
    first = registry.create_alias(known, "obj")
    assert registry.create_alias(known, "obj") == first
    assert (
        len({first, registry.create_alias(known, "glb"), registry.create_alias(other, "obj")}) == 3
    )
    assert journal.names.count(("ticket", known.uid)) == 2
    after = JobRegistry()
    after.put(known)
    journal.restore(after)
    assert after.create_alias(known, "obj") == first


def test_an_owner_finds_their_own_jobs_only() -> None:
    registry = JobRegistry()
    hers = registry.put(job(owner="alice", image_hash=HASH, shape_md5="c" * 32))
    his = registry.put(job(owner="bob", image_hash=HASH))
    assert registry.get(HASH, "alice") is hers
    assert registry.get(HASH, "bob") is his
    assert registry.find_by_shape("c" * 32, "alice") is hers
    assert registry.find_by_shape("c" * 32, "bob") is None
    assert registry.find_by_shape("d" * 32, "alice") is None
    later = registry.put(job(owner="alice"))
    assert registry.list_newest("alice") == [later, hers]
    for name, owner in ((hers.uid, "bob"), (his.uid, "alice"), (hers.uid, ""), (HASH, "")):
        with pytest.raises(JobNotFoundError, match="never created, or it has aged out"):
            registry.get(name, owner)


def test_a_shape_is_of_the_job_that_made_it_last_until_that_fails_or_goes() -> None:
    registry = JobRegistry()
    first, second = (registry.put(job(shape_md5="c" * 32)) for _ in range(2))
    assert registry.find_by_shape("c" * 32) is second
    registry.remove(first.uid)
    assert registry.find_by_shape("c" * 32) is second
    registry.put(second.changed(1.0, status=Status.ERROR, error=EngineError("no")))
    assert registry.find_by_shape("c" * 32) is None
    third = registry.put(job(shape_md5="c" * 32))
    registry.remove(third.uid)
    assert not registry._by_shape


def test_a_key_is_of_its_origin_and_is_found_in_another_process() -> None:
    journal = Journal()
    before = JobRegistry(journal, "v1")
    known = before.put(job())
    before.bind_key(("upload", "x"), known.uid)
    for origin, is_found in (("v1", True), ("v2", False), (None, False)):
        after = JobRegistry(origin=origin)
        after.put(known)
        journal.restore(after)
        assert (after.find_by_key(("upload", "x")) is known) is is_found
        assert after.find_by_key(("upload", "y")) is None
    assert journal.names == [("key", known.uid)]
    assert before.find_by_key(("upload", "x")) is known
    assert journal.names == [("key", known.uid), ("asked", known.uid)]
    before.remove(known.uid)
    assert before.find_by_key(("upload", "x")) is None
    assert not before._by_key


def test_a_journal_hears_of_every_job_and_its_end() -> None:
    heard: list[tuple[str, str]] = []

    class Listening(Journal):
        def note(self, job: Job) -> None:
            heard.append(("note", job.uid))

        def remove(self, uid: str) -> None:
            heard.append(("remove", uid))

    registry = JobRegistry(Listening())
    known = registry.put(job())
    registry.put(known.changed(1.0, status=Status.COMPLETED))
    aged = registry.remove_aged(2.0)
    assert [each.uid for each in aged] == [known.uid]
    assert heard == [("note", known.uid)] * 2 + [("remove", known.uid)]
    assert registry.remove_aged(2.0) == []


def test_a_job_whose_texture_is_requested_does_not_age_until_it_ends_again() -> None:
    registry = JobRegistry()
    done = registry.put(registry.put(job()).changed(1.0, status=Status.COMPLETED))
    working = registry.put(done.changed(2.0, status=Status.TEXTURE_PROCESSING))
    assert registry.remove_aged(100.0) == []
    registry.put(working.changed(50.0, status=Status.COMPLETED))
    assert registry.remove_aged(50.0) == []
    assert len(registry.remove_aged(50.1)) == 1


def test_as_many_old_jobs_are_given_as_asked_for() -> None:
    registry = JobRegistry()
    uids = [
        registry.put(registry.put(job()).changed(at, status=Status.ERROR)).uid
        for at in (1.0, 2.0, 3.0)
    ]
    assert [each.uid for each in registry.oldest_finished(2)] == uids[:2]
    assert registry.oldest_finished(0) == []
    assert (len(registry), [each.uid for each in registry]) == (3, uids)


def test_restored_requests_count_for_the_age() -> None:
    registry = JobRegistry()
    old, new = (
        registry.put(registry.put(job()).changed(at, status=Status.COMPLETED)) for at in (1.0, 2.0)
    )
    registry.restore_requests({old.uid: 9.0})
    assert [each.uid for each in registry.oldest_finished(9)] == [new.uid, old.uid]


def test_unix_times_follow_from_the_clock() -> None:
    known = job(created_unix_s=1000.0)
    assert known.finished_unix_s is None
    begun = Job(known.uid, OPTIONS, "gated", 50.0, created_unix_s=1000.0)
    assert begun.changed(57.0, status=Status.ERROR).finished_unix_s == 1007.0
    shown = begun.changed(51.0, status=Status.TEXTURE_PROCESSING, progress=Progress("bake", 0.5))
    assert shown.progress == Progress("bake", 0.5)
