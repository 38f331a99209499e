"""The routes of jobs that are there: list, look, follow, delete.

What this module does not know: how jobs are made, threads, engines.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from trellis2_server.api.generation import caller_of, service_of
from trellis2_server.api.responses import JobReply, JobsReply, job_reply
from trellis2_server.api.schemas import ErrorReply, errors

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Send

    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.service import JobService

#: Seconds after which a stream says that it is still there.
HEARTBEAT_S: Final = 15.0
#: Neither kept back by a proxy nor compressed into lumps.
_STREAM_HEADERS: Final = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
#: With a "4XX" FastAPI does not document a 422, which is never sent.
_NOT_MEANT: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": ErrorReply, "description": "Not meant."}
}

Name = Annotated[str, Path(description="An image hash or a uid.")]

router = APIRouter()


@router.get(
    "/jobs",
    response_model_exclude_none=True,
    summary="The jobs, the latest first",
    responses={**errors(400, 401, 404), **_NOT_MEANT},
)
async def jobs(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100, description="How many at most.")] = 20,
    before: Annotated[str | None, Query(description="`next` of the page before.")] = None,
) -> JobsReply:
    """With API keys, those of the key that asks."""
    found, has_more = await service_of(request).list_jobs(
        caller_of(request), limit=limit, before=before
    )
    replies = [job_reply(view) for view in found]
    return JobsReply(jobs=replies, next=found[-1].job.uid if has_more else None)


@router.get(
    "/jobs/{name}",
    response_model_exclude_none=True,
    summary="All that is known of a job",
    responses={**errors(401, 404), **_NOT_MEANT},
)
async def job(request: Request, name: Name) -> JobReply:
    """The same form for hashes and uids."""
    return job_reply(await service_of(request).get_view(name, caller_of(request)))


@router.delete(
    "/jobs/{name}",
    status_code=204,
    response_class=Response,
    summary="Cancel a job, or delete a finished one",
    responses={**errors(401, 404), **_NOT_MEANT},
)
async def delete(request: Request, name: Name) -> None:
    """A waiting or running job is cancelled, a finished one is gone with its files.

    Whoever waits for a job that is cancelled gets a 409. A running one stops at its engine's
    next step. A job that other clients (keys or addresses) asked for too goes on for them.
    """
    await service_of(request).delete(name, caller_of(request))


@router.get(
    "/events/{name}",
    response_class=StreamingResponse,
    summary="Follow a job",
    responses={
        200: {
            "description": "Server-sent events: `status` for each change, `end` as the last; "
            "their data is what `/jobs/{name}` says.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **errors(401, 404),
        **_NOT_MEANT,
    },
)
async def events(request: Request, name: Name) -> Response:
    """The job's state at once and after each change, at most ten times a second.

    The stream ends with the job. A comment every 15 s shows that it is still there.
    """
    service = service_of(request)
    found = await service.get_job(name, caller_of(request))
    return _EventStream(
        _events(service, found), media_type="text/event-stream", headers=_STREAM_HEADERS
    )


async def _events(service: JobService, job: Job) -> AsyncGenerator[str]:
    async with aclosing(service.watch(job, heartbeat_s=HEARTBEAT_S)) as views:
        async for view in views:
            if view is None:
                yield ": heartbeat\n\n"
                continue
            kind = "end" if view.job.status.is_finished else "status"
            data = job_reply(view).model_dump_json(exclude_none=True)
            yield f"event: {kind}\ndata: {data}\n\n"


class _EventStream(StreamingResponse):
    """Stops listening as soon as the client has gone, wherever the stream is then."""

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self.body_iterator):  # pyright: ignore[reportArgumentType]
            await super().stream_response(send)
