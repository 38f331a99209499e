"""The routes that Hunyuan3D's clients use beside `/generate` and `/generate_texture`.

Their replies have exactly the keys, the order and the form that these clients expect: one
builds records from them, one searches their text.

What this module does not know: how jobs are made, threads, engines.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.routing import Match

from trellis2_server.api.generation import (
    as_file,
    caller_of,
    read_generation_request,
    service_of,
    submit,
)
from trellis2_server.api.schemas import EXAMPLE_PICTURE, errors, request_body, schema
from trellis2_server.jobs.job import Job, Status
from trellis2_server.parameters import Delivery

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Scope

    from trellis2_server.storage.store import Artifact

#: Bytes of a model that become base64 at a time; a multiple of three.
CHUNK_BYTES: Final = 3 * 65_536
#: A job's uid; 32 digits in a row are an image hash, and the native route's.
_UID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

router = APIRouter()


class _UidRoute(APIRoute):
    """Matches where its `uid` is a UUID or, where it has none, its path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        uid = child.get("path_params", {}).get("uid")
        if uid is not None and not _UID.fullmatch(uid):
            return Match.NONE, {}
        return match, child


class SendReply(BaseModel):
    """The job's name."""

    uid: str = Field(description="To ask `/status/{uid}` for.")


class HealthyReply(BaseModel):
    """Whether models are served."""

    status: Literal["healthy", "loading", "error"]
    worker_id: str = Field(description="Six characters, another one for each process.")


@router.post(
    "/send",
    summary="The same as /generate, in the background",
    responses=errors(400, 401, 413, 429, 503),
    openapi_extra=request_body(
        schema("image", "mesh", "text", "*", required=("image",)), {"image": EXAMPLE_PICTURE}
    ),
)
async def send(request: Request) -> SendReply:
    """The name of the job, at once. Takes the fields of `/generate`."""
    service = service_of(request)
    generation = await read_generation_request(request, request.app.state.settings)
    wanted = Delivery(texture=bool(generation.delivery.texture), type=generation.delivery.type)
    job = await submit(generation, service, caller_of(request), texture=wanted.texture)
    return SendReply(uid=await service.create_alias(job, wanted))


@router.get("/status/test", summary="Any quick answer")
async def ping() -> dict[str, str]:
    """Says that somebody is there."""
    return {"status": "ok"}


async def status(request: Request, uid: Annotated[str, Path(description="A uid.")]) -> Response:
    """Where a job is; the whole model once it is there."""
    service = service_of(request)
    view = await service.get_view(uid, caller_of(request))
    job, wanted = view.job, view.delivery
    result = _result(job, wanted)
    if result is not None:
        glb = await service.read_file(result)
        content = await as_file(glb, wanted.type if wanted else "glb")
        head, tail = b'{"status":"completed","model_base64":"', b'"}'
        size = len(head) + (len(content) + 2) // 3 * 4 + len(tail)
        return StreamingResponse(
            _base64(head, content, tail),
            media_type="application/json",
            headers={"Content-Length": str(size)},
        )
    if job.error is not None:
        return _compact({"status": "error", "message": str(job.error)})
    return _compact({"status": "texturing" if job.shape_glb is not None else "processing"})


router.add_api_route(
    "/status/{uid}",
    status,
    methods=["GET"],
    route_class_override=_UidRoute,
    include_in_schema=False,
)


def _result(job: Job, wanted: Delivery | None) -> Artifact | None:
    """What `/send` asked for; for a job of `/generate`, the most there will be."""
    if wanted is not None:
        return job.textured_glb if wanted.texture else job.shape_glb
    if job.status is Status.COMPLETED:
        return job.textured_glb or job.shape_glb
    return None


async def _base64(head: bytes, content: bytes, tail: bytes) -> AsyncGenerator[bytes]:
    """The parts of a body; other requests get their turn between two of them."""
    yield head
    for start in range(0, len(content), CHUNK_BYTES):
        yield base64.b64encode(content[start : start + CHUNK_BYTES])
        await asyncio.sleep(0)
    yield tail


def _compact(reply: dict[str, Any]) -> Response:
    text = json.dumps(reply, separators=(",", ":"), ensure_ascii=False)
    return Response(text, media_type="application/json")


@router.get(
    "/health",
    summary="Whether models are served",
    response_model=HealthyReply,
    responses={503: {"model": HealthyReply, "description": "Loading, leaving, or it failed."}},
)
async def health(request: Request) -> Response:
    """`healthy`, and a name for this process."""
    says = (await service_of(request).health()).status
    reply = {
        "status": "healthy" if says == "ok" else says,
        "worker_id": request.app.state.worker_id,
    }
    return JSONResponse(reply, 200 if says == "ok" else 503)
