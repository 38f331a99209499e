"""The HTTP API on a job service of the test's own: no jobs, no engine, no socket."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.support.app_client import AppClient
from tests.support.managers import options
from trellis2_server.api.app import create_api
from trellis2_server.jobs.job import Job, Status
from trellis2_server.jobs.service import ExportedModel, Health, JobView
from trellis2_server.settings import Settings
from trellis2_server.storage.content import BytesContent
from trellis2_server.storage.store import Artifact

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trellis2_server.parameters import Delivery

UID = "12345678-1234-1234-1234-123456789abc"
HASH = "a" * 32
SHAPE, TEXTURED = Artifact(UID, "shape.glb", 5), Artifact(UID, "textured.glb", 8)
BEGUN = Job(UID, options(7), "engine", 0.0, image_hash=HASH, background="alpha")
SHAPED = replace(BEGUN, shape_glb=SHAPE, status=Status.TEXTURE_PROCESSING)
DONE = replace(SHAPED, textured_glb=TEXTURED, status=Status.COMPLETED)
CONTENTS = {SHAPE: b"shape", TEXTURED: b"textured", None: b"none"}


class Service:
    """A job service with one job."""

    def __init__(self) -> None:
        self.is_closing = False
        self.job = DONE
        self.delivery: Delivery | None = None
        self.views: list[JobView | None] | None = None
        self.health_state = Health("ok", "engine", queue_length=3)
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.has_conversion = False

    def _note(self, name: str, *arguments: Any, **named: Any) -> None:
        self.asked.append((name, arguments, named))

    def _view(self, job: Job) -> JobView:
        return JobView(job, 2, 1.5, (SHAPE,), can_export=True, delivery=self.delivery)

    async def health(self) -> Health:
        return self.health_state

    async def metrics(self) -> bytes:
        return b"metrics"

    async def submit(self, picture: bytes, options: Any, caller: Any, **named: Any) -> Job:
        self._note("submit", picture, options.seed, caller.client, **named)
        return self.job

    async def identify(self, picture: bytes, caller: Any, **named: Any) -> str:
        del caller
        self._note("identify", picture, **named)
        return HASH

    async def get_job(self, name: str, caller: Any) -> Job:
        del caller
        self._note("get_job", name)
        return self.job

    async def get_view(self, name: str, caller: Any) -> JobView:
        del caller
        self._note("get_view", name)
        return self._view(self.job)

    async def list_jobs(self, caller: Any, **named: Any) -> tuple[list[JobView], bool]:
        del caller
        self._note("list_jobs", **named)
        return [self._view(self.job)] * min(named["limit"], 3), named["limit"] < 3

    async def watch(self, job: Job, *, heartbeat_s: float) -> AsyncGenerator[JobView | None]:
        self._note("watch", job.uid, heartbeat_s)
        for view in self.views or []:
            yield view

    async def wait_for_shape(self, job: Job) -> Job:
        return job

    async def wait_for_texture(self, job: Job, timeout_s: float | None = None) -> Job:
        self._note("wait_for_texture", timeout_s)
        return job

    async def create_alias(self, job: Job, delivery: Delivery) -> str:
        self._note("create_alias", job.uid, delivery)
        return UID

    async def delete(self, name: str, caller: Any) -> None:
        del caller
        self._note("delete", name)

    async def find_conversion(self, model: Any, file_type: str) -> Artifact | None:
        self._note("find_conversion", model, file_type)
        return SHAPE if self.has_conversion else None

    async def convert(self, model: Any, file_type: str, caller: Any, **named: Any) -> BytesContent:
        del caller
        self._note("convert", model, file_type, **named)
        return BytesContent(CONTENTS[model])

    async def export(self, job: Job, options: Any, caller: Any, **named: Any) -> ExportedModel:
        del caller
        self._note("export", job.uid, options.texture_size, **named)
        return ExportedModel(BytesContent(b"exported"))

    async def get_file(self, name: str, file_name: str, caller: Any) -> tuple[Job, Artifact]:
        del caller
        self._note("get_file", name, file_name)
        return self.job, SHAPE if file_name == "shape.glb" else TEXTURED

    async def read_file(self, artifact: Any) -> BytesContent:
        return BytesContent(CONTENTS[artifact])


class Api:
    def __init__(self, **server: Any) -> None:
        self.service = Service()
        service: Any = self.service

        @asynccontextmanager
        async def open_service() -> AsyncGenerator[Any]:
            yield service

        configured = Settings.model_validate({"server": server})
        self.app = create_api(configured, open_service, lambda *_: None)
        self.client = AppClient(self.app)
