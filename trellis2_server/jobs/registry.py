"""`JobRegistry`: all jobs that are kept, by uid, image hash, alias and request key.

Of several jobs with the same image hash, the hash refers to the one last asked for. A job
belongs to an owner, and nobody else finds it. The registry belongs to the event loop's thread
and takes no lock.

What this module does not know: threads, queues, HTTP, how a job is worked on.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import time
import uuid
from typing import TYPE_CHECKING, Final, Protocol

from trellis2_server.errors import JobNotFoundError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from trellis2_server.jobs.job import Job


_HASH: Final = re.compile(r"[0-9a-f]{32}")


_UID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class JobJournal(Protocol):
    """Who writes down what the table holds."""

    def note(self, job: Job) -> None:
        """The job is there, in this state."""
        ...

    def name(self, kind: str, name: str, uid: str, says: Hashable = None) -> None:
        """The job has this name too: an "alias", a "ticket", a "key", or when it was "asked"."""
        ...

    def remove(self, uid: str) -> None:
        """The job is there no longer."""
        ...


class JobRegistry:
    """All jobs that are kept.

    Args:
        journal: is told of every change.
        origin: what else, beside a key, decides a result: jobs of another origin never match.
    """

    def __init__(self, journal: JobJournal | None = None, origin: Hashable = None) -> None:
        self._journal = journal
        self._origin = origin
        self._jobs: dict[str, Job] = {}
        self._aliases: dict[str, str] = {}
        self._by_hash: dict[tuple[str, str], list[str]] = {}
        self._asked: dict[str, int] = {}
        self._askings = itertools.count()
        self._by_key: dict[str, str] = {}
        self._by_shape: dict[tuple[str, str], str] = {}
        self._clients: dict[str, set[str]] = {}
        self._tickets: dict[str, tuple[str, Hashable]] = {}
        self._ticket_of: dict[tuple[str, Hashable], str] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, uid: str) -> bool:
        return uid in self._jobs

    def __getitem__(self, uid: str) -> Job:
        return self._jobs[self._aliases.get(uid, uid)]

    def put(self, job: Job) -> Job:
        """Keep this state of the job, a new or a known one, and find it by its hash."""
        known = self._jobs.get(job.uid)
        self._jobs[job.uid] = job
        if known is None:
            self._asked[job.uid] = next(self._askings)
            self._clients[job.uid] = set()
        if job.image_hash and (known is None or known.image_hash is None):
            # Not simply last: its cut-out may have been overtaken by a later job's.
            self._by_hash.setdefault((job.owner, job.image_hash), []).append(job.uid)
            self._sort(job)
        if job.shape_md5:
            self._by_shape[job.owner, job.shape_md5] = job.uid
        if self._journal:
            self._journal.note(job)
        return job

    def of_shape(self, md5: str, owner: str = "") -> Job | None:
        """The owner's job whose untextured GLB has that MD5, unless it failed or was cancelled."""
        job = self._jobs.get(self._by_shape.get((owner, md5), ""))
        return None if job is None or job.error is not None else job

    def newest(self, owner: str = "") -> list[Job]:
        """The owner's jobs, the latest first."""
        return [job for job in reversed(self._jobs.values()) if job.owner == owner]

    def ask(self, uid: str, client: str) -> None:
        """Know that this client wants the job."""
        self._clients[uid].add(client)

    def clients(self, uid: str) -> frozenset[str]:
        """Who wants the job."""
        return frozenset(self._clients.get(uid, ()))

    def withdraw(self, uid: str, client: str) -> bool:
        """Whether nobody wants the job when this client does not any more.

        Who never asked for it speaks for all.
        """
        clients = self._clients[uid]
        if client not in clients:
            return True
        clients.discard(client)
        return not clients

    def ticket(self, job: Job, wanted: Hashable) -> str:
        """Another uid of the job, which remembers what is wanted of it; the same for the same."""
        known = self._ticket_of.get((job.uid, wanted))
        if known is None:
            known = self._ticket_of[job.uid, wanted] = str(uuid.uuid4())
            self._tickets[known] = job.uid, wanted
            self._name("ticket", known, job.uid, wanted)
        return known

    def wanted(self, ticket: str) -> Hashable:
        """What a ticket remembers; None for any other name."""
        return self._tickets.get(ticket.strip().lower(), ("", None))[1]

    def _sort(self, job: Job) -> None:
        if job.image_hash:
            self._by_hash[job.owner, job.image_hash].sort(key=self._asked.__getitem__)

    def bind(self, key: Hashable, uid: str) -> None:
        """Let `match(key)` find this job."""
        name = self._key_name(key)
        self._by_key[name] = uid
        self._name("key", name, uid)

    def _key_name(self, key: Hashable) -> str:
        # Keys are plain values and records of them, so that this is the same in any process.
        return hashlib.sha256(repr((self._origin, key)).encode()).hexdigest()

    def _name(self, kind: str, name: str, uid: str, says: Hashable = None) -> None:
        if self._journal:
            self._journal.name(kind, name, uid, says)

    def restore_name(self, kind: str, name: str, uid: str, says: Hashable) -> None:
        """Have a name that the journal was told of in an earlier process."""
        if kind == "alias":
            self._aliases[name] = uid
        elif kind == "ticket":
            self._tickets[name] = uid, says
            self._ticket_of[uid, says] = name
        elif kind == "key":
            self._by_key[name] = uid

    def alias(self, uid: str, meant: str) -> None:
        """Let `uid` mean another job, which turned out to be the same; its own is dropped."""
        self._clients[meant] |= self._clients[uid]
        self._remove(uid)
        self._aliases[uid] = meant
        self._name("alias", uid, meant)
        for ticket, (known, wanted) in self._tickets.items():
            if known == uid:
                self._name("ticket", ticket, meant, wanted)

    def get(self, name: str, owner: str = "") -> Job:
        """The owner's job with that uid, or the one last asked for with that image hash.

        Raises:
            JobNotFoundError: there is none.
        """
        name = name.strip().lower()
        if not (_HASH.fullmatch(name) or _UID.fullmatch(name)):
            raise JobNotFoundError(
                "no such job: a job is named by an image hash (32 hex digits) or a uid (a UUID)"
            )
        uid = self._tickets.get(name, (name, None))[0]
        uids = self._by_hash.get((owner, uid), [self._aliases.get(uid, uid)])
        job = self._jobs.get(uids[-1])
        if job is None or job.owner != owner:
            raise JobNotFoundError(f"no such job: {name}; it was never here, or it has aged out")
        return job

    def match(self, key: Hashable) -> Job | None:
        """The job bound to `key`, unless it failed or was cancelled; its hash means it again."""
        job = self._jobs.get(self._by_key.get(self._key_name(key), ""))
        if job is None or job.error is not None:
            return None
        self._asked[job.uid] = next(self._askings)
        self._name("asked", job.uid, job.uid, time.time())
        self._sort(job)
        return job

    def remove(self, uid: str) -> None:
        """Drop a job, and all of its names."""
        self._remove(uid)
        self._forget_names()

    def oldest_finished(self) -> Job | None:
        """The job that finished first."""
        finished = [job for job in self._jobs.values() if job.finished_at is not None]
        return min(finished, key=lambda job: job.finished_at or 0.0, default=None)

    def remove_aged(self, finished_before: float) -> list[Job]:
        """Drop the finished jobs that ended before then; returns them."""
        aged = [
            job
            for job in self._jobs.values()
            if job.finished_at is not None and job.finished_at < finished_before
        ]
        for job in aged:
            self._remove(job.uid)
        if aged:
            self._forget_names()
        return aged

    def _forget_names(self) -> None:
        self._aliases = {a: uid for a, uid in self._aliases.items() if uid in self._jobs}
        self._by_key = {key: uid for key, uid in self._by_key.items() if uid in self._jobs}
        for ticket, (uid, wanted) in list(self._tickets.items()):
            if self._aliases.get(uid, uid) not in self._jobs:
                del self._tickets[ticket], self._ticket_of[uid, wanted]

    def _remove(self, uid: str) -> None:
        if self._journal:
            self._journal.remove(uid)
        job = self._jobs.pop(uid)
        if job.shape_md5 and self._by_shape.get((job.owner, job.shape_md5)) == uid:
            del self._by_shape[job.owner, job.shape_md5]
        del self._asked[uid], self._clients[uid]
        if job.image_hash:
            uids = self._by_hash[job.owner, job.image_hash]
            uids.remove(uid)
            if not uids:
                del self._by_hash[job.owner, job.image_hash]
