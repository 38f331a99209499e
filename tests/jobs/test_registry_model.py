"""Whatever happens to jobs, the registry keeps what runs, finds what it keeps, forgets the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tests.jobs.test_registry import job
from trellis2_server.jobs.job import TRANSITIONS, Status
from trellis2_server.jobs.registry import JobRegistry

if TYPE_CHECKING:
    from trellis2_server.jobs.job import Job


class Tables(RuleBasedStateMachine):
    """Whatever happens, a table keeps what runs, finds what it keeps, and forgets the rest."""

    uids = Bundle("uids")

    def __init__(self) -> None:
        super().__init__()
        self.registry = JobRegistry()
        self.now = 0.0
        self.used: dict[str, float] = {}

    def known(self, uid: str) -> Job | None:
        return next((known for known in self.registry if known.uid == uid), None)

    @rule(target=uids, owner=st.sampled_from(["", "alice"]))
    def add(self, owner: str) -> str:
        added = self.registry.put(job(owner=owner))
        self.registry.add_client(added.uid, owner)
        self.registry.bind_key(added.uid[:2], added.uid)
        return added.uid

    @rule(uid=uids, image_hash=st.sampled_from(["a" * 32, "b" * 32]))
    def cut_out(self, uid: str, image_hash: str) -> None:
        known = self.known(uid)
        if known and known.image_hash is None:
            self.registry.put(known.changed(self.now, image_hash=image_hash))

    @rule(uid=uids, status=st.sampled_from(Status))
    def move(self, uid: str, status: Status) -> None:
        known = self.known(uid)
        self.now += 1
        if known and status in TRANSITIONS[known.status]:
            self.registry.put(known.changed(self.now, status=status))

    @rule(uid=uids, other=uids)
    def join(self, uid: str, other: str) -> None:
        known, meant = self.known(uid), self.known(other)
        if known and meant and known is not meant and known.owner == meant.owner:
            self.registry.merge(uid, other)
            assert self.registry.get(uid, meant.owner).uid == other

    @rule(uid=uids)
    def remove(self, uid: str) -> None:
        known = self.known(uid)
        if known:
            self.registry.remove(known.uid)
            assert known.uid not in self.registry

    @rule(age=st.integers(0, 5))
    def age(self, age: int) -> None:
        before = self.now - age
        for aged in self.registry.remove_aged(before):
            assert aged.status.is_finished
            assert max(aged.finished_at or 0.0, self.used.get(aged.uid, 0.0)) < before

    @rule(uid=uids)
    def ask(self, uid: str) -> None:
        self.now += 1
        if self.known(uid):
            self.registry.note_request(uid, self.now)
            self.used[uid] = self.now

    @invariant()
    def finished_jobs_age_from_their_last_use(self) -> None:
        ages = {
            known.uid: max(known.finished_at, self.used.get(known.uid, 0.0))
            for known in self.registry
            if known.finished_at is not None
        }
        found = [known.uid for known in self.registry.oldest_finished(100)]
        assert sorted(found) == sorted(ages)
        assert [ages[uid] for uid in found] == sorted(ages.values())

    @invariant()
    def nothing_is_kept_for_jobs_that_are_gone(self) -> None:
        kept = {known.uid for known in self.registry}
        hashed = [uid for uids in self.registry._by_hash.values() for uid in uids]
        assert set(self.registry._last_requests) == kept
        assert sorted(hashed) == sorted(j.uid for j in self.registry if j.image_hash)
        assert all(self.registry._by_hash.values())
        assert set(self.registry._clients) == kept
        for owner, image_hash in self.registry._by_hash:
            found = self.registry.get(image_hash, owner)
            assert (found.owner, found.image_hash) == (owner, image_hash)

    def teardown(self) -> None:
        for known in self.registry:
            if not known.status.is_finished:
                self.registry.put(known.changed(self.now, status=Status.CANCELLED))
        self.registry.remove_aged(self.now + 1)
        assert not len(self.registry)
        assert not self.registry._by_key
        assert not self.registry._merged


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=30, stateful_step_count=20)
