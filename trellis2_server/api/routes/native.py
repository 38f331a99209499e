"""The native routes: generate a model, get its texture, get the status.

Does not know: threads, engines, files.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from trellis2_server.api.dependencies import CallerDep, ServiceDep, SettingsDep, UidOrHash
from trellis2_server.api.disconnects import while_connected
from trellis2_server.api.generation import (
    find_texture,
    generate_model,
    read_generation_request,
)
from trellis2_server.api.model_responses import MODEL_HEADERS, MODEL_RESPONSE, model_response
from trellis2_server.api.responses import INVALID_REQUEST, StatusReply, status_reply
from trellis2_server.api.schemas import EXAMPLE_PICTURE, SOURCES, errors, request_body, schema

_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        **MODEL_RESPONSE,
        "headers": {name: {"schema": {"type": "string"}} for name in MODEL_HEADERS},
    }
}

#: Errors of a job.
_ERRORS: Final = (400, 401, 409, 413, 415, 429, 500, 502, 503, 504, 507)

router = APIRouter()
#: Routes that clients of Hunyuan3D use, too.
shared_router = APIRouter()


@shared_router.post(
    "/generate",
    response_class=Response,
    summary="Generate a model from a picture",
    responses={**_RESPONSES, **errors(*_ERRORS)},
    openapi_extra=request_body(
        schema(*SOURCES, "*", needs_picture=True),
        {"image": EXAMPLE_PICTURE, "seed": 42},
    ),
)
async def generate(
    request: Request, service: ServiceDep, caller: CallerDep, settings: SettingsDep
) -> Response:
    """Return the untextured model, and make its texture in the background.

    With `texture: true`, wait for the textured model and return it; there is no timeout. The
    same picture with the same parameters is computed once; further requests get the same bytes.
    """
    generation = await read_generation_request(request, settings)
    job, model = await while_connected(request, generate_model(generation, service, caller))
    return model_response(job, model, generation.delivery.type)


@shared_router.post(
    "/generate_texture",
    response_class=Response,
    summary="Get the textured model of a job",
    responses={
        **_RESPONSES,
        **errors(404, 408, *_ERRORS),
    },
    openapi_extra=request_body(
        schema("image_hash", "uid", *SOURCES, "*"),
        {"image_hash": "9e107d9d372bb6826bd81d3542a419d6"},
    ),
)
async def generate_texture(
    request: Request, service: ServiceDep, caller: CallerDep, settings: SettingsDep
) -> Response:
    """Wait for the texture, at most `worker.texture_timeout_seconds`.

    `image_hash`, `uid` or `image` identifies the job. If the job has no texture yet, it is made
    now. A `mesh` is textured from the `image`; if the mesh is the untextured GLB of a job, the
    response is the textured model of that job.
    """
    generation = await read_generation_request(request, settings)
    timeout_s = settings.worker.texture_timeout_seconds
    call = find_texture(generation, service, caller, timeout_s)
    job = await while_connected(request, call)
    delivery = generation.delivery
    conversion = service.convert(job.textured_glb, delivery.form, caller, is_delivery=True)
    return model_response(job, await while_connected(request, conversion), delivery.type)


@router.get(
    "/status/{name}",
    response_model_exclude_none=True,
    summary="Get the status of a job",
    responses={**errors(401, 404), **INVALID_REQUEST},
)
async def status(name: UidOrHash, service: ServiceDep, caller: CallerDep) -> StatusReply:
    """Return the status without waiting.

    For a uid, the response has the form that Hunyuan3D's clients expect: `status` is
    `processing`, `texturing`, `completed` with `model_base64`, or `error` with `message`.
    """
    return status_reply(await service.get_view(name, caller))
