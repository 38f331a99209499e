"""The routes that Hunyuan3D's clients use besides `/generate` and `/generate_texture`.

Their responses have exactly the keys, the key order and the format that these clients expect:
one client builds dataclasses from the keys, another searches the text.

Does not know: how jobs are run, threads, engines.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.routing import Match

from trellis2_server.api.dependencies import CallerDep, ServiceDep, SettingsDep
from trellis2_server.api.generation import read_generation_request, submit
from trellis2_server.api.head_routes import head_response
from trellis2_server.api.model_responses import base64_response, convert_on_get
from trellis2_server.api.schemas import EXAMPLE_PICTURE, SOURCES, errors, request_body, schema
from trellis2_server.jobs.job import Job, Status
from trellis2_server.storage.store import UID

if TYPE_CHECKING:
    from starlette.types import Scope

    from trellis2_server.parameters import Delivery
    from trellis2_server.storage.store import Artifact

router = APIRouter()
#: Routes that native clients use, too.
shared_router = APIRouter()
#: Routes that Unity's client uses, too.
health_router = APIRouter()


class _UidRoute(APIRoute):
    """A route that matches only if its `uid` parameter, if it has one, is a UUID.

    The native route serves image hashes, which are 32 hexadecimal digits.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        uid = child.get("path_params", {}).get("uid")
        if uid is not None and not UID.fullmatch(uid.lower()):
            return Match.NONE, {}
        return match, child


class SendReply(BaseModel):
    """The id of a submitted job."""

    uid: str = Field(description="Id for `/status/{uid}`.")


class HealthyReply(BaseModel):
    """The health of the server."""

    status: Literal["healthy", "loading", "error"]
    worker_id: str = Field(description="Six characters, different for each process.")


@shared_router.post(
    "/send",
    summary="Submit a job and return at once",
    responses=errors(400, 401, 413, 415, 429, 503),
    openapi_extra=request_body(
        schema(*SOURCES, "*", needs_picture=True),
        {"image": EXAMPLE_PICTURE},
    ),
)
async def send(
    request: Request,
    response: Response,
    service: ServiceDep,
    caller: CallerDep,
    settings: SettingsDep,
) -> SendReply:
    """Return an id of the job at once. Takes the fields of `/generate`.

    The id also stands for the requested model in `/status/{uid}`. The header `X-Job-Id` is the
    job's own uid, as `/jobs` lists it.
    """
    generation = await read_generation_request(request, settings)
    has_texture = bool(generation.delivery.texture)
    job = await submit(generation, service, caller, texture=has_texture)
    delivery = replace(generation.delivery, texture=has_texture)
    response.headers["X-Job-Id"] = job.uid
    return SendReply(uid=await service.create_alias(job, delivery))


@router.get("/status/test", summary="Test the connection")
async def ping() -> dict[str, str]:
    """Return a constant response."""
    return {"status": "ok"}


async def status(
    request: Request,
    uid: Annotated[str, Path(description="A uid.")],
    service: ServiceDep,
    caller: CallerDep,
) -> Response:
    """Return the status of a job; if it is completed, with its model."""
    view = await service.get_view(uid, caller)
    model = _result(view.job, view.delivery)
    if request.method == "HEAD":  # makes no file
        return head_response("application/json")
    if model is None:
        return _compact(_without_model(view.job, view.delivery))
    form = view.delivery.form if view.delivery else "glb"
    content = await convert_on_get(request, service, model, form, caller, is_delivery=True)
    return base64_response(b'{"status":"completed","model_base64":"', content, b'"}')


router.add_api_route(
    "/status/{uid}",
    status,
    methods=["GET"],
    route_class_override=_UidRoute,
    include_in_schema=False,
)


def _result(job: Job, delivery: Delivery | None) -> Artifact | None:
    """Return the model for the client; None while it is not available.

    A client of `/send` gets the model that it requested. Other clients get the final one.
    """
    if delivery is not None:
        return job.textured_glb if delivery.texture else job.shape_glb
    if job.status is Status.COMPLETED:
        return job.textured_glb or job.shape_glb
    return None


def _without_model(job: Job, delivery: Delivery | None) -> dict[str, str]:
    """Return the status of a job that does not have the model for the client."""
    needs_shape = delivery is not None and not delivery.texture
    error = (needs_shape and job.shape_error) or job.error
    if error:
        return {"status": "error", "message": str(error)}
    if job.status.is_finished:  # nothing more is made; the reason may be lost with a restart
        return {"status": "error", "message": "this job has no such model; send the picture again"}
    return {"status": "texturing" if job.shape_glb is not None else "processing"}


def _compact(body: dict[str, Any]) -> Response:
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return Response(text, media_type="application/json")


@health_router.get(
    "/health",
    summary="Get the health of the server",
    response_model=HealthyReply,
    responses={503: {"model": HealthyReply, "description": "Loading, shutting down, or failed."}},
)
async def health(request: Request, service: ServiceDep) -> Response:
    """Return `healthy`, or why the server cannot generate models, and an id of the process."""
    status = (await service.health()).status
    body = {
        "status": "healthy" if status == "ok" else status,
        "worker_id": request.app.state.worker_id,
    }
    return JSONResponse(body, 200 if status == "ok" else 503)
