"""Limits of the settings, each at the limit and one over it; without threads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.managers import in_a_loop
from tests.support.parts import Parts
from trellis2_server.decoders.limits import decoder_limits
from trellis2_server.errors import (
    LoadingError,
    QueueFullError,
    ShuttingDownError,
    TooManyRequestsError,
    UnhealthyError,
)
from trellis2_server.jobs import admission as module
from trellis2_server.jobs import ages, export_calls, manager, progress, results, scheduler
from trellis2_server.jobs.admission import Admission
from trellis2_server.jobs.cleanup import ALL_THREADS_HANG, Cleanup
from trellis2_server.jobs.export_calls import ExportCalls, ExportWork
from trellis2_server.jobs.job import Caller
from trellis2_server.settings import ServerSettings, Settings, WorkerSettings

ROOT = Path(__file__).parents[2]
MINE, OTHERS = Caller("", "mine"), Caller("", "other")


class Gate:
    """Admission with so much that waits already."""

    def __init__(self, **limits: Any) -> None:
        self.parts = Parts()
        self.lifecycle_error: Exception | None = None
        self.scheduler = SimpleNamespace(waiting=0)
        self.lookups = SimpleNamespace(waiting=0, held_bytes=0, requests_of=self._requests_of)
        self.own_lookups = 0
        # Smaller than an operator may set some of them.
        configured = Settings().worker.model_copy(update=limits)
        lifecycle: Any = SimpleNamespace(check=self._check_loaded)
        waiting: Any = self.scheduler
        lookups: Any = self.lookups
        self.admission = Admission(
            configured, self.parts.availability, lifecycle, waiting, self.parts.active_jobs, lookups
        )

    def _requests_of(self, client: str) -> int:
        return self.own_lookups if client == MINE.client else 0

    def _check_loaded(self) -> None:
        if self.lifecycle_error is not None:
            raise self.lifecycle_error

    def add(self, caller: Caller, **state: Any) -> Any:
        active = self.parts.add(**state)
        self.parts.registry.add_client(active.uid, caller.client)
        return active


@pytest.mark.parametrize(
    ("jobs", "lookups", "is_full"), [(0, 0, False), (2, 0, False), (1, 1, False), (3, 0, True),
                                     (0, 3, True), (1, 2, True), (9, 9, True)]
)  # fmt: skip
@in_a_loop
async def test_as_many_as_the_limit_may_wait(
    jobs: int,
    lookups: int,
    is_full: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    gate = Gate(max_queue_length=3)
    gate.scheduler.waiting, gate.lookups.waiting = jobs, lookups
    if not is_full:
        gate.admission.check_queue()
        gate.admission.check_new_job(0, MINE)
        return
    for check in (gate.admission.check_queue, lambda: gate.admission.check_new_job(0, MINE)):
        with pytest.raises(QueueFullError, match=f"{jobs + lookups} jobs wait") as caught:
            check()
        assert caught.value.retry_after_s == module.QUEUE_FULL_RETRY_AFTER_S == 10


@pytest.mark.parametrize(
    ("of_jobs", "of_lookups", "more", "is_full"),
    [(0, 0, 999, False), (60, 0, 40, False), (60, 0, 41, True), (0, 60, 41, True),
     (30, 30, 40, False), (30, 30, 41, True)],
)  # fmt: skip
@in_a_loop
async def test_uploads_may_hold_as_many_bytes_as_the_limit_and_one_may_be_larger(
    of_jobs: int,
    of_lookups: int,
    more: int,
    is_full: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    gate = Gate(max_waiting_bytes=100)
    gate.add(OTHERS).upload_bytes = of_jobs
    gate.lookups.held_bytes = of_lookups
    if is_full:
        with pytest.raises(QueueFullError, match=f"{of_jobs + of_lookups} bytes of uploads wait"):
            gate.admission.check_upload(more, MINE)
    else:
        gate.admission.check_upload(more, MINE)


@pytest.mark.parametrize(
    ("jobs", "lookups", "is_refused"), [(1, 0, False), (0, 1, False), (2, 0, True), (1, 1, True),
                                        (0, 2, True)]
)  # fmt: skip
@in_a_loop
async def test_a_client_may_have_as_many_unfinished_jobs_as_the_limit(
    jobs: int,
    lookups: int,
    is_refused: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    gate = Gate(max_jobs_per_client=2)
    gate.own_lookups = lookups
    for _ in range(jobs):
        gate.add(MINE, running="shape")
    for _ in range(5):
        gate.add(OTHERS, running="shape")
        gate.parts.endings.complete_shape(gate.add(MINE, running="shape_export"))
    if is_refused:
        with pytest.raises(TooManyRequestsError, match=r"^2 of your jobs are not finished yet"):
            gate.admission.check_new_job(0, MINE)
    else:
        gate.admission.check_new_job(0, MINE)
    unlimited = Gate(max_jobs_per_client=None)
    unlimited.own_lookups = 10**6
    unlimited.admission.check_new_job(0, MINE)


@in_a_loop
async def test_a_server_that_loads_or_closes_is_not_open() -> None:
    gate = Gate()
    gate.admission.check_open()
    gate.lifecycle_error = LoadingError("loading")
    with pytest.raises(LoadingError):
        gate.admission.check_open()
    gate.parts.availability.fatal_error = "no GPU"
    with pytest.raises(UnhealthyError, match="no GPU") as caught:
        gate.admission.check_open()
    assert caught.value.retry_after_s == 30
    assert not gate.parts.availability.is_open
    gate.parts.availability.is_closing = True
    with pytest.raises(ShuttingDownError):
        gate.admission.check_open()


# ---- exports -------------------------------------------------------------------------------------


class Exports:
    """Export calls that never start."""

    def __init__(self, limit: int | None) -> None:
        self.parts = Parts()
        limits = Settings().worker.model_copy(update={"max_exports_per_client": limit})
        none: Any = None
        self.calls = ExportCalls(
            none, self.parts.availability, self.parts.endings, self.parts.clock, limits
        )

    async def ask(self, client: str, key: object = None, *, may_refuse: bool = True) -> None:
        """Ask for an export, and leave as soon as it waits."""
        task = self.calls.run(ExportWork(lambda _: b"", key), client, may_refuse=may_refuse)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self.tasks.append(task)
        task.send(None)

    @property
    def tasks(self) -> list[Any]:
        return self.__dict__.setdefault("_tasks", [])

    def leave(self) -> None:
        for task in self.tasks:
            task.close()


@pytest.mark.parametrize("limit", [1, 2, 3])
@in_a_loop
async def test_a_client_may_have_as_many_unfinished_exports_as_the_limit(limit: int) -> None:
    exports = Exports(limit)
    for _ in range(limit):
        await exports.ask("a")
    with pytest.raises(TooManyRequestsError, match=f"^{limit} of your exports") as caught:
        await exports.ask("a")
    assert caught.value.retry_after_s == export_calls.RETRY_AFTER_S == 5
    await exports.ask("b")
    await exports.ask("a", may_refuse=False)
    assert exports.calls.unfinished == limit + 2
    # Beyond its limit, a client's calls do not fill the queue for others.
    assert exports.calls.waiting == limit + 1
    exports.leave()
    assert exports.calls.unfinished == 0
    unlimited = Exports(None)
    for _ in range(50):
        await unlimited.ask("a")
    assert unlimited.calls.waiting == 50
    unlimited.leave()


@in_a_loop
async def test_who_waits_for_the_same_file_needs_no_place_of_their_own() -> None:
    exports = Exports(1)
    await exports.ask("a", "key")
    await exports.ask("a", "key")
    await exports.ask("b", "key")
    assert exports.calls.unfinished == exports.calls.waiting == 1
    with pytest.raises(TooManyRequestsError):
        await exports.ask("b", "other")
    exports.tasks[0].close()
    exports.tasks[1].close()
    assert exports.calls.unfinished == 1  # it is the other client's
    await exports.ask("a", "other")
    exports.leave()
    assert exports.calls.unfinished == 0


@in_a_loop
async def test_clients_take_turns() -> None:
    exports = Exports(None)
    clock = exports.parts.clock
    clock.now = 10.0
    await exports.ask("a")
    assert exports.calls.next_deadline == 10.0
    exports.calls._last_turns["a"] = 8.0
    assert exports.calls.next_deadline == 10.0  # its turn ended before it asked
    exports.calls._last_turns["a"] = 10.0
    assert exports.calls.next_deadline == 10.0 + export_calls.NEXT_TURN_S
    exports.calls._last_turns["a"] = 30.0
    assert exports.calls.next_deadline == 30.0 + export_calls.NEXT_TURN_S
    clock.now = 50.0
    await exports.ask("b")
    assert exports.calls.next_deadline == 50.0
    exports.calls.can_start = lambda clients: "a" in clients
    assert exports.calls.next_deadline == 30.0 + export_calls.NEXT_TURN_S
    exports.calls.can_start = lambda _: False
    assert exports.calls.next_deadline is None
    exports.leave()


# ---- cleanup -------------------------------------------------------------------------------------


class Tidy:
    def __init__(self, **limits: Any) -> None:
        self.parts = Parts()
        self.retries = 0
        self.scheduler = SimpleNamespace(is_stuck=False)
        self.lookups = SimpleNamespace(is_stuck=False)
        configured = Settings().worker.model_copy(update=limits)
        archive: Any = SimpleNamespace(retry_failed_writes=self._retry)
        scheduler: Any = self.scheduler
        lookups: Any = self.lookups
        self.cleanup = Cleanup(
            configured, self.parts.active_jobs, archive, self.parts.endings, scheduler, lookups
        )

    def _retry(self) -> None:
        self.retries += 1


@pytest.mark.parametrize(("age_s", "is_kept"), [(100.0, True), (100.1, False)])
@in_a_loop
async def test_a_finished_job_is_kept_for_as_long_as_the_limit(
    age_s: float, *, is_kept: bool
) -> None:
    tidy = Tidy(job_max_age_seconds=100)
    active = tidy.parts.add(running="shape_export")
    tidy.parts.endings.complete_shape(active)  # its texture may still be requested
    tidy.parts.clock.now = age_s
    tidy.cleanup.run()
    assert (active.uid in tidy.parts.registry) is is_kept
    assert (active.uid in tidy.parts.active_jobs) is is_kept
    assert tidy.retries == 1


@in_a_loop
async def test_abandoned_jobs_are_cancelled_and_hung_threads_are_fatal() -> None:
    tidy = Tidy()
    waits = tidy.parts.add(waiting_for="cutout")
    tidy.parts.clock.now = 1000.0
    tidy.cleanup.run()
    assert tidy.parts.status(waits) == "cancelled"
    assert tidy.parts.availability.fatal_error is None
    for part in ("scheduler", "lookups"):
        tidy = Tidy()
        getattr(tidy, part).is_stuck = True
        tidy.cleanup.run()
        assert tidy.parts.availability.fatal_error == ALL_THREADS_HANG


# ---- constants -----------------------------------------------------------------------------------


def test_the_times_and_sizes_are_what_they_are_said_to_be() -> None:
    assert (ages.RECORD_INTERVAL_S, scheduler.TEXTURE_PATIENCE_S) == (60.0, 60.0)
    assert export_calls.NEXT_TURN_S >= scheduler.TEXTURE_PATIENCE_S
    assert export_calls.NEXT_TURN_S == 60.0
    assert (manager.ARCHIVE_GRACE_S, progress.PROGRESS_INTERVAL_S) == (10.0, 0.05)
    assert results.JOBS_PER_TURN == 32


def test_the_settings_of_decoders_reach_each_of_their_processes() -> None:
    base = decoder_limits(Settings())
    for size, seconds in ((2**30, 5.0), (2**31, 7.0)):
        update = {"decode_memory_bytes": size, "decode_timeout_seconds": seconds}
        worker = Settings().worker.model_copy(update=update)
        limits = decoder_limits(Settings().model_copy(update={"worker": worker}))
        assert limits.timeout_s == seconds
        assert (
            limits.memory_bytes - size == base.memory_bytes - Settings().worker.decode_memory_bytes
        )


#: The limits of the settings, and where each is tested at the limit and over it. That a decoder
#: holds its own two is tested in tests/decoders.
TESTED = {
    "link_seconds": "tests/api/test_links.py",
    "limit_model_concurrency": "tests/jobs/test_scheduler.py",
    "max_queue_length": "tests/jobs/test_limits.py",
    "max_waiting_bytes": "tests/jobs/test_limits.py",
    "max_jobs_per_client": "tests/jobs/test_limits.py",
    "max_exports_per_client": "tests/jobs/test_limits.py",
    "job_max_age_seconds": "tests/jobs/test_limits.py",
    "decode_timeout_seconds": "tests/jobs/test_limits.py",
    "decode_memory_bytes": "tests/jobs/test_limits.py",
    "texture_timeout_seconds": "tests/api/routes/test_service_calls.py",
    "stage_timeout_seconds": "tests/jobs/test_faults.py",
    "recycle_after_jobs": "tests/jobs/test_model_lifecycle.py",
    "max_vram_growth_mb": "tests/jobs/test_model_lifecycle.py",
    "abandoned_job_seconds": "tests/jobs/test_scheduler.py",
    "max_result_bytes": "tests/jobs/test_conversions.py",
    "max_kept_bytes": "tests/jobs/test_conversions.py",
    "max_body_bytes": "tests/api/test_inflight_bodies.py",
    "max_inflight_bytes": "tests/api/test_inflight_bodies.py",
    "max_connections": "tests/api/test_connection_phases.py",
    "max_connections_per_client": "tests/api/test_connection_phases.py",
    "max_event_streams_per_client": "tests/api/test_event_streams.py",
    "max_image_pixels": "tests/inputs/images/test_decoding.py",
    "rate_per_minute": "tests/api/routes/test_service_calls.py",
    "transfer_timeout_seconds": "tests/api/test_connection_phases.py",
    "shutdown_grace_seconds": "tests/jobs/test_faults.py",
}
#: No limit: how often something is done.
INTERVALS = {"job_cleanup_interval_seconds"}


@pytest.mark.parametrize("name", [*WorkerSettings.model_fields, *ServerSettings.model_fields])
def test_every_limit_of_the_settings_is_tested_at_and_over_it(name: str) -> None:
    """A new limit fails here until the table says where."""
    endings = ("_seconds", "_after_jobs", "_concurrency", "_per_minute", "memory_bytes")
    is_limit = name.startswith("max_") or name.endswith(endings)
    assert (name in TESTED) is (is_limit and name not in INTERVALS)
    if name in TESTED:
        assert name in (ROOT / TESTED[name]).read_text("utf-8")
