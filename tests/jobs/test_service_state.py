"""What the service tells of the manager: its health, and the state around a job; no threads."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.managers import in_a_loop
from tests.support.parts import Parts
from trellis2_server.errors import JobNotFoundError, UnavailableError
from trellis2_server.jobs.job import Caller, Status
from trellis2_server.jobs.local_service import LocalJobService
from trellis2_server.parameters import Delivery
from trellis2_server.storage.store import Artifact

SHAPE = Artifact("uid", "shape.glb", 3)


class Archive:
    """Notes for which jobs a reply waited until they were saved."""

    def __init__(self) -> None:
        self.saved: list[str] = []
        self.is_deleted = True

    async def wait_until_saved(self, uid: str) -> None:
        self.saved.append(uid)

    async def wait_until_deleted(self, uid: str) -> bool:
        self.saved.append(f"deleted {uid}")
        return self.is_deleted


class Results:
    """Files of one job, and what was asked for."""

    def __init__(self) -> None:
        self.notes = ["full disk"]
        self.deleted: list[str] = []
        self.conversion: Artifact | None = None
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def files(self, job: Any) -> list[Artifact]:
        del job
        return [SHAPE]

    def can_export(self, job: Any) -> bool:
        del job
        return True

    def file(self, job: Any, name: str) -> Artifact:
        return Artifact(job.uid, name, 1)

    def delete(self, job: Any) -> None:
        self.deleted.append(job.uid)

    def open_file(self) -> None: ...

    def find_conversion(self, model: Any, file_type: str) -> Artifact | None:
        del model, file_type
        return self.conversion

    async def convert(self, *arguments: Any, **named: Any) -> str:
        self.asked.append(("convert", arguments, named))
        return "converted"

    async def export(self, *arguments: Any, **named: Any) -> str:
        self.asked.append(("export", arguments, named))
        return "exported"


class Stage:
    def __init__(self, **lifecycle: Any) -> None:
        self.parts, self.archive, self.results = Parts(), Archive(), Results()
        self.checks: list[str] = []
        self.metrics: list[Any] = []
        state = {"status": "ok", "is_resident": True, "is_reloading": False, "stage": "weights",
                 "fraction": 0.5, "seconds": 3.0, "memory": {"used": 1}}  # fmt: skip
        manager: Any = SimpleNamespace(
            registry=self.parts.registry, active_jobs=self.parts.active_jobs, results=self.results,
            archive=self.archive, availability=self.parts.availability,
            lifecycle=SimpleNamespace(**{**state, **lifecycle}), unavailable_reason=None,
            executor=SimpleNamespace(
                name="engine", describe=lambda: {"device": "cpu"}, background_model=lambda: "model"
            ),
            scheduler=SimpleNamespace(length=4, position=lambda _: 7),
            estimator=SimpleNamespace(eta_s=lambda _: 8.0), endings=self.parts.endings,
            submissions=SimpleNamespace(submit=None, submit_text=None, identify=None),
            admission=SimpleNamespace(
                check_queue=lambda: self.checks.append("queue"),
                check_open=lambda: self.checks.append("open"),
            ),
        )  # fmt: skip
        self.manager = manager
        metrics: Any = SimpleNamespace(render=self._render)
        self.service = LocalJobService(manager, metrics, ["note"])

    def _render(self, health: Any) -> bytes:
        self.metrics.append(health)
        return b"metrics"


@pytest.mark.parametrize("status", ["loading", "ok", "error"])
@pytest.mark.parametrize("is_resident", [False, True])
@pytest.mark.parametrize("is_reloading", [False, True])
@in_a_loop
async def test_only_an_engine_that_is_unloaded_until_it_is_needed_is_idle(
    status: str,
    is_resident: bool,  # noqa: FBT001 - a parameter of the test
    is_reloading: bool,  # noqa: FBT001
) -> None:
    stage = Stage(status=status, is_resident=is_resident, is_reloading=is_reloading)
    health = await stage.service.health()
    assert health.is_idle is (status == "ok" and not is_resident and not is_reloading)
    assert (health.status, health.is_reloading) == (status, is_reloading)


@in_a_loop
async def test_the_health_is_that_of_the_manager() -> None:
    stage = Stage()
    for count, status in ((2, Status.SHAPE_PROCESSING), (1, Status.COMPLETED)):
        for _ in range(count):
            stage.parts.active_jobs.change(stage.parts.add(), status=status)
    health = await stage.service.health()
    assert (health.engine, health.error, health.stage) == ("engine", None, "weights")
    assert (health.fraction, health.load_seconds, health.memory) == (0.5, 3.0, {"used": 1})
    assert (health.notes, health.details) == (["note", "full disk"], {"device": "cpu"})
    assert health.background_model == "model"  # as the executor says
    assert health.queue_length == 4
    assert health.jobs == Counter({Status.SHAPE_PROCESSING: 2, Status.COMPLETED: 1})
    stage.manager.unavailable_reason = "shutting down"
    broken = await stage.service.health()
    assert (broken.status, broken.error) == ("error", "shutting down")
    assert await stage.service.metrics() == b"metrics"
    assert stage.metrics[0].error == "shutting down"
    assert not stage.service.is_closing
    stage.parts.availability.is_closing = True
    assert stage.service.is_closing


# ---- jobs ----------------------------------------------------------------------------------------


@in_a_loop
async def test_a_job_is_told_of_after_it_is_saved() -> None:
    stage = Stage()
    active = stage.parts.add(running="shape")
    view = await stage.service.get_view(active.uid)
    assert (view.queue_position, view.eta_s, view.files) == (7, 8.0, [SHAPE])
    assert (view.can_export, view.delivery) == (True, None)
    assert stage.archive.saved == [active.uid]
    alias = await stage.service.create_alias(view.job, Delivery(texture=True, type="obj"))
    assert stage.archive.saved == [active.uid] * 2
    delivered = await stage.service.get_view(alias)
    assert delivered.delivery == Delivery(texture=True, type="obj")
    assert delivered.job is view.job
    stage.parts.endings.complete(active)
    finished = await stage.service.get_view(active.uid)
    assert (finished.queue_position, finished.eta_s) == (None, None)
    job, file = await stage.service.get_file(active.uid, "shape.glb")
    assert (job.uid, file) == (active.uid, Artifact(active.uid, "shape.glb", 1))
    assert stage.archive.saved == [active.uid] * 5


@in_a_loop
async def test_every_request_for_a_job_counts_for_its_age() -> None:
    stage = Stage()
    asks: list[Any] = [
        stage.service.get_job, stage.service.get_view,
        lambda uid: stage.service.get_file(uid, "shape.glb"),
    ]  # fmt: skip
    for number, ask in enumerate(asks, 1):
        active = stage.parts.add()
        stage.parts.clock.now = float(number)
        await ask(active.uid)
        assert active.last_requested_at == number
    stage.parts.active_jobs.change(active, shape_md5="c" * 32)
    stage.parts.clock.now = 9.0
    found = await stage.service.find_by_shape("c" * 32)
    assert found is not None
    assert (found.uid, active.last_requested_at) == (active.uid, 9.0)
    assert await stage.service.find_by_shape("d" * 32) is None
    assert await stage.service.find_by_shape(None) is None


@in_a_loop
async def test_jobs_are_listed_page_by_page_newest_first() -> None:
    stage = Stage()
    uids = [stage.parts.add().uid for _ in range(5)][::-1]

    async def page(limit: int, before: str | None = None) -> tuple[list[str], bool]:
        stage.archive.saved.clear()
        views, has_more = await stage.service.list_jobs(limit=limit, before=before)
        assert stage.archive.saved == [view.job.uid for view in views]
        return [view.job.uid for view in views], has_more

    assert await page(2) == (uids[:2], True)
    assert await page(2, uids[1]) == (uids[2:4], True)
    assert await page(2, uids[3]) == (uids[4:], False)
    assert await page(5) == (uids, False)
    assert await page(4) == (uids[:4], True)
    assert await page(4, uids[4]) == ([], False)
    with pytest.raises(JobNotFoundError):
        await page(2, "a" * 32)


@in_a_loop
async def test_a_job_goes_with_its_last_client() -> None:
    stage = Stage()
    runs, done = stage.parts.add(running="shape"), stage.parts.add()
    stage.parts.endings.complete(done)
    for active in (runs, done):
        for client in ("a", "b"):
            stage.parts.registry.add_client(active.uid, client)
        await stage.service.delete(active.uid, Caller(client="a"))
    assert stage.archive.saved == stage.results.deleted == []
    assert stage.parts.status(runs) == "shape_processing"
    await stage.service.delete(runs.uid, Caller(client="b"))
    assert stage.parts.status(runs) == "cancelled"
    await stage.service.delete(done.uid, Caller(client="b"))
    assert stage.results.deleted == [done.uid]
    assert stage.archive.saved == [runs.uid, f"deleted {done.uid}"]
    stage.archive.is_deleted = False
    with pytest.raises(UnavailableError, match="the folder for results fails") as caught:
        await stage.service.delete(done.uid, Caller(client="b"))
    assert caught.value.retry_after_s == 60


@pytest.mark.parametrize(
    ("file_type", "is_stored", "is_delivery", "is_checked"),
    [
        ("obj", False, False, True),
        ("obj", False, True, False),
        ("obj", True, False, False),
        ("glb", False, False, False),
    ],
)
@in_a_loop
async def test_only_a_conversion_that_has_to_be_made_is_held_against_the_queue(
    file_type: Any,
    is_stored: bool,  # noqa: FBT001 - a parameter of the test, like the next ones
    is_delivery: bool,  # noqa: FBT001
    is_checked: bool,  # noqa: FBT001
) -> None:
    stage = Stage()
    stage.results.conversion = SHAPE if is_stored else None
    caller = Caller(client="a")
    made: Any = await stage.service.convert(SHAPE, file_type, caller, is_delivery=is_delivery)
    assert made == "converted"
    assert stage.checks == (["queue"] if is_checked else [])
    assert stage.results.asked == [
        ("convert", (SHAPE, file_type, "a"), {"may_refuse": not is_delivery})
    ]
    await stage.service.convert(None, "obj", caller)
    assert stage.checks == (["queue"] if is_checked else [])


@in_a_loop
async def test_an_export_needs_an_open_server_and_a_place_in_the_queue() -> None:
    stage = Stage()
    job: Any = stage.parts.active_jobs.record(stage.parts.add())
    made: Any = await stage.service.export(job, job.options, Caller(client="a"), texture=None)
    assert (made, stage.checks) == ("exported", ["open", "queue"])
    assert stage.results.asked == [
        ("export", (job, job.options, "a"), {"texture": None, "file_type": "glb"})
    ]
