"""The route that exports the model of a job with other parameters.

Does not know: how files are made, engines.
"""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from trellis2_server.api.dependencies import CallerDep, ServiceDep, SettingsDep, UidOrHash
from trellis2_server.api.disconnects import while_connected
from trellis2_server.api.model_responses import MODEL_HEADERS, MODEL_RESPONSE, model_response
from trellis2_server.api.request_parsing import parse_fields
from trellis2_server.api.responses import INVALID_REQUEST
from trellis2_server.api.schemas import errors, export_body
from trellis2_server.parameters import read_delivery, read_export

_HEADERS: Final = {
    name: {"schema": {"type": "string"}} for name in (*MODEL_HEADERS, "Content-Disposition")
}

router = APIRouter()


@router.post(
    "/jobs/{name}/export",
    response_class=Response,
    summary="Export the model of a job with other parameters",
    responses={
        200: {**MODEL_RESPONSE, "headers": _HEADERS},
        **errors(400, 401, 404, 409, 413, 415, 429, 500, 503, 507),
        **INVALID_REQUEST,
    },
    openapi_extra=export_body({"decimation_target": 50_000, "texture_size": 1024}),
)
async def export(
    request: Request,
    name: UidOrHash,
    service: ServiceDep,
    caller: CallerDep,
    settings: SettingsDep,
) -> Response:
    """Export the model from the job's snapshots, without running the engine.

    Fields that are not set have the values of the job. The exported model is textured if the
    job has or makes a texture, unless `texture` is `false`. Of a job that is not finished, the
    reply is 409 until it is; of one that failed, its error.
    """
    job = await service.get_job(name, caller)
    fields = await parse_fields(request, max_bytes=settings.server.max_body_bytes)
    options, delivery = read_export(fields, job.options, settings), read_delivery(fields)
    call = service.export(job, options, caller, texture=delivery.texture, file_type=delivery.form)
    exported = await while_connected(request, call)
    return model_response(job, exported.content, delivery.type, export_warnings=exported.warnings)
