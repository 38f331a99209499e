"""The routes of existing jobs: list, show, watch, delete.

Does not know: how jobs are created, threads, engines.
"""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from trellis2_server.api.dependencies import CallerDep, LinksDep, ServiceDep, UidOrHash
from trellis2_server.api.error_handlers import error_response
from trellis2_server.api.head_routes import head_response
from trellis2_server.api.responses import (
    INVALID_REQUEST,
    JobReply,
    JobsReply,
    job_reply,
    linked_job_reply,
)
from trellis2_server.api.schemas import errors
from trellis2_server.errors import TooManyRequestsError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractContextManager

    from starlette.types import Receive, Scope, Send

    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.service import JobService

#: Seconds after which a stream without events sends a comment.
HEARTBEAT_S: Final = 15.0
#: Headers that prevent proxies from buffering and compressing the stream.
_STREAM_HEADERS: Final = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}

router = APIRouter()


@router.get(
    "/jobs",
    response_model_exclude_none=True,
    summary="List the jobs, newest first",
    responses={**errors(400, 401, 404), **INVALID_REQUEST},
)
async def jobs(
    service: ServiceDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=100, description="Jobs per page, at most.")] = 20,
    before: Annotated[str | None, Query(description="`next` of the previous page.")] = None,
) -> JobsReply:
    """List all jobs; with API keys, only those of the request's key."""
    views, has_more = await service.list_jobs(caller, limit=limit, before=before)
    replies = [job_reply(view) for view in views]
    return JobsReply(jobs=replies, next=views[-1].job.uid if has_more else None)


@router.get(
    "/jobs/{name}",
    response_model_exclude_none=True,
    summary="Get all details of a job",
    responses={**errors(401, 404), **INVALID_REQUEST},
)
async def job(name: UidOrHash, service: ServiceDep, caller: CallerDep, links: LinksDep) -> JobReply:
    """Return the same form for an image hash and for a uid."""
    return linked_job_reply(await service.get_view(name, caller), links)


@router.delete(
    "/jobs/{name}",
    status_code=204,
    response_class=Response,
    summary="Cancel a job, or delete a finished one",
    responses={**errors(401, 404, 503), **INVALID_REQUEST},
)
async def delete(name: UidOrHash, service: ServiceDep, caller: CallerDep) -> None:
    """Cancel a waiting or running job; delete a finished job and its files.

    Requests that wait for a cancelled job get a 409. A running job stops at the next step of
    its engine. If other clients (API keys or addresses) requested the job too, it continues
    for them.
    """
    await service.delete(name, caller)


@router.get(
    "/events/{name}",
    response_class=StreamingResponse,
    summary="Watch a job",
    responses={
        200: {
            "description": "Server-sent events: `status` after each change, and `end` as the "
            "last one. Their data is that of `/jobs/{name}`.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **errors(401, 404, 429),
        **INVALID_REQUEST,
    },
)
async def events(
    request: Request, name: UidOrHash, service: ServiceDep, caller: CallerDep
) -> Response:
    """Send the job's state at once and after each change, at most ten times per second.

    The stream ends with the job. A comment every 15 s keeps the connection alive. If the API key
    is withdrawn, the stream ends within that time.
    """
    job = await service.get_job(name, caller)
    if request.method == "HEAD":
        return head_response("text/event-stream", _STREAM_HEADERS)
    is_accepted = partial(request.app.state.keys.accepts, caller.owner)
    return _EventStream(
        _events(service, job, is_accepted),
        hold=partial(request.app.state.event_streams.hold, caller.client),
    )


async def _events(
    service: JobService, job: Job, is_accepted: Callable[[], bool]
) -> AsyncGenerator[str]:
    async with aclosing(service.watch(job, heartbeat_s=HEARTBEAT_S)) as views:
        async for view in views:
            if not is_accepted():
                return
            if view is None:
                yield ": heartbeat\n\n"
                continue
            kind = "end" if view.job.status.is_finished else "status"
            data = job_reply(view).model_dump_json(exclude_none=True)
            yield f"event: {kind}\ndata: {data}\n\n"


class _EventStream(StreamingResponse):
    """A stream that ends its subscription as soon as the client disconnects.

    Args:
        content: the events.
        hold: counts the stream while it is open; raises if the client has too many.
    """

    def __init__(
        self, content: AsyncGenerator[str], hold: Callable[[], AbstractContextManager[None]]
    ) -> None:
        super().__init__(content, media_type="text/event-stream", headers=_STREAM_HEADERS)
        self._hold = hold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._hold():
                await super().__call__(scope, receive, send)
        except TooManyRequestsError as error:
            await error_response(error)(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self.body_iterator):  # pyright: ignore[reportArgumentType]
            await super().stream_response(send)
