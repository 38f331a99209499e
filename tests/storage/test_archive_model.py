"""Thousands of interleavings of saving, deleting, faults, kills and restarts, against a model.

The model knows what was promised: that a job and its file are saved, or that it is deleted. After
a kill, what was promised holds; of the rest, each job is as it was before or after the change, and
no file has a wrong byte.

The order of threads decides which jobs are left after a kill, so no rule has a precondition: what
Hypothesis draws must depend on nothing but what it has drawn before.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.support.faulty_disk import KINDS, LIBRARY, Disk, FaultyFileSystem, faulty_sqlite
from trellis2_server.errors import StoreError
from trellis2_server.storage.archive import Archive
from trellis2_server.storage.disk_store import DiskStore
from trellis2_server.storage.store import JobName

if TYPE_CHECKING:
    from collections.abc import Coroutine

#: A job's record and its files, by name; None: there is no such job.
State = tuple[str, tuple[str, ...]] | None


def content(uid: str, name: str) -> bytes:
    return random.Random(uid + name).randbytes(3000)  # noqa: S311 - no secret


class ArchiveMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        self.folder = Path(folder) / "results"
        self.disk = Disk(folder=self.folder)
        self.stack.enter_context(faulty_sqlite(self.disk))
        self.loop = asyncio.new_event_loop()
        #: What may be found of each job after a kill.
        self.possible: dict[str, set[State]] = {}
        #: What is served now.
        self.now: dict[str, State] = {}
        self.numbers = iter(range(10**6))
        self.start()

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(call, 60))

    def start(self) -> None:
        self.archive = Archive(
            DiskStore(self.folder, FaultyFileSystem(self.disk)), max_evictable_bytes=0
        )
        contents = self.archive.open()
        found = {job.uid: (job.record, tuple(sorted(job.files))) for job in contents.jobs}
        for uid, states in self.possible.items():
            if not self.is_possible(found.get(uid), states):
                raise AssertionError(f"{uid}: {found.get(uid)} is none of {states}")
        assert found.keys() <= self.possible.keys()
        assert {name.uid for name in contents.names} <= found.keys()
        self.now = dict(found)
        self.possible = {uid: {state} for uid, state in found.items()}
        if not self.is_failing:
            names = {f"{uid}-{name}" for uid, (_, files) in found.items() for name in files}
            assert {path.name for path in (self.folder / "files").iterdir()} == names

    @staticmethod
    def is_possible(found: State, states: set[State]) -> bool:
        """Whether a job is as it was before or after a change, or lacks a file in between.

        A job that was being deleted may have lost its files already; new files come before the
        record that tells of them.
        """
        if found in states:
            return True
        records = {state[0] for state in states if state}
        files = {name for state in states if state for name in state[1]}
        return (
            len(states) > 1 and found is not None and found[0] in records and set(found[1]) <= files
        )

    @property
    def is_failing(self) -> bool:
        return any("worker.result_dir fails" in note for note in self.archive.notes)

    def note(self, uid: str, state: State, *, is_promised: bool) -> None:
        self.now[uid] = state
        if is_promised:
            self.possible[uid] = {state}
        else:
            self.possible.setdefault(uid, {None}).add(state)

    def pick(self, at: int) -> str | None:
        """Return the uid of a job; None: there is none."""
        known = sorted(uid for uid, state in self.now.items() if state)
        return known[at % len(known)] if known else None

    # ---- changes ---------------------------------------------------------------------

    def saved(self, uid: str) -> bool:
        self.run(self.archive.wait_until_saved(uid))
        return not self.is_failing

    @rule(has_file=st.booleans(), is_awaited=st.booleans())
    def make(self, *, has_file: bool, is_awaited: bool) -> None:
        uid = str(uuid.UUID(int=next(self.numbers) << 96 | 7))

        async def change() -> None:
            self.archive.save_record(uid, f"0 {uid}")
            self.archive.save_name(JobName("ticket", uid, uid, "x"))
            if has_file:
                self.archive.store_file(uid, "shape.glb", content(uid, "shape.glb"))

        self.run(change())
        state = f"0 {uid}", ("shape.glb",) if has_file else ()
        self.possible[uid] = {None, (f"0 {uid}", ()), state}
        self.note(uid, state, is_promised=is_awaited and self.saved(uid))

    @rule(at=st.integers(0, 99), is_awaited=st.booleans(), is_bulk=st.booleans())
    def go_on(self, at: int, *, is_awaited: bool, is_bulk: bool) -> None:
        uid = self.pick(at)
        if uid is None:
            return
        record, files = self.now[uid] or ("", ())
        number = int(record.partition(" ")[0]) + 1
        name = "textured.glb"

        async def change() -> None:
            self.archive.store_file(uid, name, content(uid, name), is_bulk=is_bulk)
            self.archive.save_record(uid, f"{number} {uid}")

        self.run(change())
        state = f"{number} {uid}", tuple(sorted({*files, name}))
        is_promised = is_awaited and self.saved(uid) and not is_bulk
        self.note(uid, state, is_promised=is_promised)

    @rule(at=st.integers(0, 99))
    def discard(self, at: int) -> None:
        uid = self.pick(at)
        if uid is None:
            return
        record, files = self.now[uid] or ("", ())
        artifact = self.archive.find(uid, "textured.glb")
        if artifact is not None:

            async def change() -> None:
                self.archive.discard(artifact)

            self.run(change())
            state = record, tuple(name for name in files if name != "textured.glb")
            self.note(uid, state, is_promised=False)

    @rule(at=st.integers(0, 99), is_awaited=st.booleans())
    def delete(self, at: int, *, is_awaited: bool) -> None:
        uid = self.pick(at)
        if uid is None:
            return

        async def change() -> bool:
            self.archive.remove([uid])
            return is_awaited and await self.archive.wait_until_deleted(uid)

        self.note(uid, None, is_promised=self.run(change()))

    # ---- the disk --------------------------------------------------------------------

    @rule(call=st.integers(0, 25), kind=st.sampled_from(KINDS), count=st.sampled_from([1, 3, None]))
    def break_soon(self, call: int, kind: str, count: int | None) -> None:
        self.disk.set(call, kind=kind, count=count)

    @rule()
    def mend(self) -> None:
        self.disk.set(None)

        async def retry() -> None:
            self.archive.retry_failed_writes()
            await self.archive.flush()

        self.run(retry())
        self.run(retry())  # the first one may have met what was in progress
        assert not self.is_failing, self.archive.notes
        self.possible = {uid: {state} for uid, state in self.now.items()}

    @rule(is_killed=st.booleans())
    def restart(self, *, is_killed: bool) -> None:
        if is_killed:
            self.disk.set(0, count=None)
        self.run(self.archive.close())
        if not is_killed and not self.is_failing:
            self.possible = {uid: {state} for uid, state in self.now.items()}
        self.disk.set(None)
        self.start()

    # ---- always ----------------------------------------------------------------------

    @invariant()
    def what_is_served_is_right(self) -> None:
        async def read() -> None:
            for uid, state in self.now.items():
                for name in state[1] if state else ():
                    artifact = self.archive.find(uid, name)
                    try:
                        assert artifact is not None, (uid, name)
                        opened = await self.archive.open_file(artifact)
                        assert await opened.read() == content(uid, name)
                    except StoreError as error:
                        assert not error.is_lost  # noqa: PT017
                        assert self.disk.fails_at is not None

        self.run(read())

    def teardown(self) -> None:
        self.disk.set(None)
        self.run(self.archive.close())
        self.loop.close()
        self.stack.close()


@pytest.mark.skipif(LIBRARY is None, reason="ctypes does not reach the SQLite library of Python")
class TestArchiveModel(ArchiveMachine.TestCase):
    settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
