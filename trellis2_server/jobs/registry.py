"""`JobRegistry`: all stored jobs, by uid, image hash, alias and request key.

Of several jobs with the same image hash, the hash refers to the one last asked for; to one with a
mesh, which only earlier versions gave the hash of its picture, if there is no other. A job
belongs to an owner; other owners do not find it. The registry belongs to the event loop's thread
and takes no lock.

Does not know: threads, queues, HTTP, how a job is worked on.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import time
import uuid
from typing import TYPE_CHECKING, Final, Protocol

from trellis2_server.errors import JobNotFoundError
from trellis2_server.jobs.ages import JobAges
from trellis2_server.storage.store import UID

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

    from trellis2_server.jobs.job import Job

_HASH: Final = re.compile(r"[0-9a-f]{32}")


class JobJournal(Protocol):
    """Records what the registry holds."""

    def note(self, job: Job) -> None:
        """Record a job in this state."""
        ...

    def name(self, kind: str, name: str, uid: str, payload: Hashable = None) -> None:
        """Record a further name of a job, or the time of a request.

        Args:
            kind: "alias": uid of a merged job; "ticket": an alias; "key": digest of a request;
                "asked": the time of the last request that matched the job; "used": that of a
                request for the finished job. These words are stored and must not change.
            name: the name.
            uid: of the job.
            payload: what the name stands for.
        """
        ...

    def remove(self, uid: str) -> None:
        """Record that a job was removed."""
        ...


class JobRegistry:
    """All jobs that are stored.

    Args:
        journal: records every change; None: nothing is recorded.
        origin: what decides a result beside its key; jobs of another origin never match.
    """

    def __init__(self, journal: JobJournal | None = None, origin: Hashable = None) -> None:
        self._journal = journal
        self._origin = origin
        self._jobs: dict[str, Job] = {}
        self._merged: dict[str, str] = {}
        self._by_hash: dict[tuple[str, str], list[str]] = {}
        self._last_requests: dict[str, int] = {}
        self._request_numbers = itertools.count()
        self._by_key: dict[str, str] = {}
        self._by_shape: dict[tuple[str, str], str] = {}
        self._clients: dict[str, set[str]] = {}
        self._ages = JobAges()
        self._aliases: dict[str, tuple[str, Hashable]] = {}
        self._alias_of: dict[tuple[str, Hashable], str] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, uid: str) -> bool:
        return uid in self._jobs

    def __getitem__(self, uid: str) -> Job:
        return self._jobs[self._merged.get(uid, uid)]

    def put(self, job: Job) -> Job:
        """Store this state of a new or known job; return it."""
        known = self._jobs.get(job.uid)
        self._jobs[job.uid] = job
        if known is None:
            self._last_requests[job.uid] = next(self._request_numbers)
            self._clients[job.uid] = set()
        if job.image_hash and (known is None or known.image_hash is None):
            # Not appended at the end: a later job's cut-out may have been faster.
            self._by_hash.setdefault((job.owner, job.image_hash), []).append(job.uid)
            self._sort_by_request(job)
        if job.shape_md5:
            self._by_shape[job.owner, job.shape_md5] = job.uid
        if known is None or known.finished_at != job.finished_at:
            self._ages.set(job.uid, job.finished_at)
        if self._journal:
            self._journal.note(job)
        return job

    def find_by_shape(self, digest: str, owner: str = "") -> Job | None:
        """Return the owner's job whose untextured GLB has that MD5, unless it failed."""
        job = self._jobs.get(self._by_shape.get((owner, digest), ""))
        return None if job is None or job.error is not None else job

    def list_newest(self, owner: str = "") -> list[Job]:
        """Return the owner's jobs, newest first."""
        return [job for job in reversed(self._jobs.values()) if job.owner == owner]

    def add_client(self, uid: str, client: str) -> None:
        """Note that the client has requested the job."""
        self._clients[uid].add(client)

    def clients(self, uid: str) -> frozenset[str]:
        """Return the clients that have requested the job."""
        return frozenset(self._clients.get(uid, ()))

    def remove_client(self, uid: str, client: str) -> bool:
        """Withdraw a client; return whether no client is left.

        A client that never requested the job withdraws all.
        """
        clients = self._clients[uid]
        if client not in clients:
            return True
        clients.discard(client)
        return not clients

    def create_alias(self, job: Job, delivery: Hashable) -> str:
        """Return another uid of the job, bound to what it delivers; the same for the same."""
        known = self._alias_of.get((job.uid, delivery))
        if known is None:
            known = self._alias_of[job.uid, delivery] = str(uuid.uuid4())
            self._aliases[known] = job.uid, delivery
            self._record_name("ticket", known, job.uid, delivery)
        return known

    def alias_delivery(self, alias: str) -> Hashable:
        """Return what an alias delivers; None for any other name."""
        return self._aliases.get(alias.strip().lower(), ("", None))[1]

    def _sort_by_request(self, job: Job) -> None:
        if job.image_hash:
            self._by_hash[job.owner, job.image_hash].sort(key=self._hash_rank)

    def _hash_rank(self, uid: str) -> tuple[bool, int]:
        return self._jobs[uid].options.mesh is None, self._last_requests[uid]

    def bind_key(self, key: Hashable, uid: str) -> None:
        """Have `find_by_key(key)` find this job."""
        name = self._key_digest(key)
        self._by_key[name] = uid
        self._record_name("key", name, uid)

    def _key_digest(self, key: Hashable) -> str:
        # The repr of plain values and records is the same in every process, and is stored.
        return hashlib.sha256(repr((self._origin, key)).encode()).hexdigest()

    def _record_name(self, kind: str, name: str, uid: str, payload: Hashable = None) -> None:
        if self._journal:
            self._journal.name(kind, name, uid, payload)

    def restore_name(self, kind: str, name: str, uid: str, payload: Hashable) -> None:
        """Restore a name that the journal recorded in an earlier process."""
        if kind == "alias":
            self._merged[name] = uid
        elif kind == "ticket":
            self._aliases[name] = uid, payload
            self._alias_of[uid, payload] = name
        elif kind == "key":
            self._by_key[name] = uid

    def merge(self, uid: str, target: str) -> None:
        """Have `uid` refer to another job, which is the same; its own job is removed."""
        self._clients[target] |= self._clients[uid]
        self._remove(uid)
        self._merged[uid] = target
        self._record_name("alias", uid, target)
        for alias, (known, delivery) in self._aliases.items():
            if known == uid:
                self._record_name("ticket", alias, target, delivery)

    def get(self, name: str, owner: str = "") -> Job:
        """Return the owner's job with that uid, or the last requested one with that hash.

        Raises:
            JobNotFoundError: the owner has no such job.
        """
        name = name.strip().lower()
        if not (_HASH.fullmatch(name) or UID.fullmatch(name)):
            raise JobNotFoundError(
                "no such job: a job is named by an image hash (32 hex digits) or a uid (a UUID)"
            )
        uid = self._aliases.get(name, (name, None))[0]
        uids = self._by_hash.get((owner, uid), [self._merged.get(uid, uid)])
        job = self._jobs.get(uids[-1])
        if job is None or job.owner != owner:
            raise JobNotFoundError(f"no such job: {name}; it was never created, or it has aged out")
        return job

    def find_by_key(self, key: Hashable) -> Job | None:
        """Return the job bound to `key`, unless it failed; its image hash refers to it again."""
        job = self._jobs.get(self._by_key.get(self._key_digest(key), ""))
        if job is None or job.error is not None:
            return None
        self._last_requests[job.uid] = next(self._request_numbers)
        self._record_name("asked", job.uid, job.uid, time.time())
        self._sort_by_request(job)
        return job

    def remove(self, *uids: str) -> None:
        """Remove jobs and all of their names."""
        for uid in uids:
            self._remove(uid)
        self._remove_stale_names()

    # ---- age -----------------------------------------------------------------------------

    def note_request(self, uid: str, now: float) -> None:
        """Note that a client has asked for the job; if it is finished, it ages from then on.

        Args:
            uid: of the job.
            now: seconds of the manager's clock.
        """
        if self._ages.note_request(uid, now):
            self._record_name("used", uid, uid, time.time())

    def restore_requests(self, times: Mapping[str, float]) -> None:
        """Restore when jobs were asked for in an earlier process: uid → seconds of the clock."""
        self._ages.restore(times)

    def oldest_finished(self, count: int) -> list[Job]:
        """Return the finished jobs that were asked for least recently, at most that many."""
        return [self._jobs[uid] for uid, _ in itertools.islice(self._ages.oldest_first(), count)]

    def remove_aged(self, used_before: float) -> list[Job]:
        """Remove the jobs that finished, and were last asked for, before a time; return them."""
        aged: list[Job] = []
        for uid, at in self._ages.oldest_first():
            if at >= used_before:
                break
            aged.append(self._jobs[uid])
        for job in aged:
            self._remove(job.uid)
        if aged:
            self._remove_stale_names()
        return aged

    def _remove_stale_names(self) -> None:
        self._merged = {merged: uid for merged, uid in self._merged.items() if uid in self._jobs}
        self._by_key = {key: uid for key, uid in self._by_key.items() if uid in self._jobs}
        for alias, (uid, delivery) in list(self._aliases.items()):
            if self._merged.get(uid, uid) not in self._jobs:
                del self._aliases[alias]
                # After a merge and a restart, two aliases stand for the same.
                self._alias_of.pop((uid, delivery), None)

    def _remove(self, uid: str) -> None:
        if self._journal:
            self._journal.remove(uid)
        job = self._jobs.pop(uid)
        if job.shape_md5 and self._by_shape.get((job.owner, job.shape_md5)) == uid:
            del self._by_shape[job.owner, job.shape_md5]
        del self._last_requests[uid], self._clients[uid]
        self._ages.set(uid, None)
        if job.image_hash:
            uids = self._by_hash[job.owner, job.image_hash]
            uids.remove(uid)
            if not uids:
                del self._by_hash[job.owner, job.image_hash]
