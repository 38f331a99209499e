"""The routes of a model's pictures.

Does not know: how they are drawn, where they are stored.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from trellis2_server import __version__
from trellis2_server.api.dependencies import CallerDep, ServiceDep, UidOrHash
from trellis2_server.api.file_responses import PERMANENT, REVALIDATE, file_response
from trellis2_server.api.model_responses import BINARY, convert_on_get
from trellis2_server.api.responses import INVALID_REQUEST, THUMBNAIL_FILE, TURNTABLE_FILE
from trellis2_server.api.schemas import errors
from trellis2_server.errors import JobNotFoundError
from trellis2_server.parameters import PictureForm
from trellis2_server.request_fields import PictureView  # noqa: TC001 - FastAPI reads it

if TYPE_CHECKING:
    from trellis2_server.jobs.job import Caller
    from trellis2_server.jobs.service import JobService

MIN_SIZE_PX: Final = 32
MAX_THUMBNAIL_PX: Final = 1024
MAX_TURNTABLE_PX: Final = 512


def _size(default_px: int, max_px: int) -> Any:
    return Query(
        description=f"Edge of the picture, {MIN_SIZE_PX} to {max_px} pixels; other values are "
        "clamped.",
        json_schema_extra={"minimum": MIN_SIZE_PX, "maximum": max_px, "default": default_px},
    )


def _responses(media_type: str) -> dict[int | str, dict[str, Any]]:
    return {
        200: {
            "description": "The picture, with a transparent ground.",
            "content": {media_type: BINARY},
            "headers": {"ETag": {"schema": {"type": "string"}}},
        },
        206: {"description": "The requested range of the picture."},
        304: {"description": "The client has the current picture."},
        416: {"description": "The requested range is outside of the picture."},
        **errors(400, 401, 404, 429, 500, 503),
        **INVALID_REQUEST,
    }


router = APIRouter()


@router.get(
    f"/jobs/{{name}}/{THUMBNAIL_FILE}",
    response_class=Response,
    summary="Get a picture of a model",
    responses=_responses("image/png"),
)
async def thumbnail(  # noqa: PLR0913, PLR0917 - FastAPI's dependencies
    request: Request,
    name: UidOrHash,
    service: ServiceDep,
    caller: CallerDep,
    size: Annotated[int, _size(512, MAX_THUMBNAIL_PX)] = 512,
    view: Annotated[PictureView, Query(description="Where the model is seen from.")] = (
        "three_quarter"
    ),
) -> Response:
    """Return a PNG of the textured model or, as long as there is none, of the untextured one.

    It is drawn once for all clients, when the first one asks for it. HEAD draws nothing.
    """
    form = PictureForm("thumbnail", min(max(size, MIN_SIZE_PX), MAX_THUMBNAIL_PX), view)
    return await _picture(request, name, (service, caller), form, "image/png")


@router.get(
    f"/jobs/{{name}}/{TURNTABLE_FILE}",
    response_class=Response,
    summary="Get a picture that turns around a model",
    responses=_responses("image/webp"),
)
async def turntable(
    request: Request,
    name: UidOrHash,
    service: ServiceDep,
    caller: CallerDep,
    size: Annotated[int, _size(320, MAX_TURNTABLE_PX)] = 320,
) -> Response:
    """Return an animated WebP of 24 views around the model; otherwise as `thumbnail.png`."""
    form = PictureForm("turntable", min(max(size, MIN_SIZE_PX), MAX_TURNTABLE_PX))
    return await _picture(request, name, (service, caller), form, "image/webp")


async def _picture(
    request: Request,
    name: str,
    asked: tuple[JobService, Caller],
    form: PictureForm,
    media_type: str,
) -> Response:
    service, caller = asked
    job = await service.get_job(name, caller)
    if job.model is None:
        is_to_come = not job.status.is_finished
        text = "the model is not there yet" if is_to_come else "this job has no model to draw"
        raise JobNotFoundError(text)
    _, model = await service.get_file(job.uid, job.model.name, caller)
    stored = await service.find_conversion(model, form)
    # The textured model of a uid is the last one; an image hash can later refer to a newer job.
    is_final = job.textured_glb is not None and name.strip().lower() != job.image_hash
    file = THUMBNAIL_FILE if form.kind == "thumbnail" else TURNTABLE_FILE
    return await file_response(
        request,
        partial(convert_on_get, request, service, model, form, caller),
        etag=f'"{job.uid}-{model.name}-{form.kind}-{form.size_px}-{form.view}-{__version__}"',
        size=stored.size if stored else None,
        media_type=media_type,
        headers={
            "Cache-Control": PERMANENT if is_final else REVALIDATE,
            "Content-Disposition": f'inline; filename="{job.uid}-{file}"',
        },
    )
