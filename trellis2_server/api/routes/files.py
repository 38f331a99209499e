"""The routes of a job's files, and of its export with other parameters.

What this module does not know: where files are kept, how they are made.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

from fastapi import APIRouter, Path, Request, Response

from trellis2_server import __version__
from trellis2_server.api.file_responses import reply_file
from trellis2_server.api.generation import (
    MEDIA_TYPES,
    as_file,
    caller_of,
    model_headers,
    service_of,
    while_connected,
)
from trellis2_server.api.request_parsing import parse_request
from trellis2_server.api.schemas import ErrorReply, errors, export_body
from trellis2_server.errors import InputError, JobNotFoundError
from trellis2_server.parameters import FileType, read_delivery, read_export

if TYPE_CHECKING:
    from trellis2_server.jobs.service import JobService
    from trellis2_server.storage.store import Artifact

#: How a file's name ends, by its type.
_ENDINGS: Final[dict[str, FileType]] = {
    "zip" if file_type == "obj_zip" else file_type: file_type for file_type in get_args(FileType)
}
#: The files of a job that can be asked for: what it is made from, its type, its media type.
FILES: Final[dict[str, tuple[str, FileType | None, str]]] = {
    "input.png": ("input.png", None, "image/png"),
    **{
        f"{kind}.{ending}": (f"{kind}.glb", file_type, MEDIA_TYPES[file_type])
        for kind in ("shape", "textured")
        for ending, file_type in _ENDINGS.items()
    },
}
#: What a uid names never changes; a hash can come to mean a newer job.
_FOR_EVER: Final = "private, max-age=31536000, immutable"
_FOR_NOW: Final = "private, no-cache"
#: With a "4XX" FastAPI does not document a 422, which is never sent.
_NOT_MEANT: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": ErrorReply, "description": "Not meant."}
}
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}

Name = Annotated[str, Path(description="An image hash or a uid.")]

router = APIRouter()


async def file(
    request: Request,
    name: Name,
    file_name: Annotated[
        str,
        Path(
            description="`input.png`, what the model sees; `shape` or `textured` with `.glb`, "
            "`.obj`, `.ply`, `.stl` or `.zip` (OBJ with its textures)."
        ),
    ],
) -> Response:
    """A file as soon as it is there, with an ETag; ranges of it too."""
    service, caller = service_of(request), caller_of(request)
    made_from, file_type, media_type = _known(file_name)
    job, artifact = await service.get_file(name, made_from, caller)
    is_as_made = file_type in {None, "glb"}
    if not is_as_made and job.options.compress:
        raise InputError(
            f"{file_name}: this job's geometry is compressed; "
            f"POST /jobs/{job.uid}/export with that type"
        )
    etag = artifact.etag if is_as_made else f'"{job.uid}-{file_name}-{__version__}"'
    return await reply_file(
        request,
        partial(_read, service, artifact, file_type),
        etag=etag,
        size=artifact.size if is_as_made else None,
        media_type=media_type,
        headers={
            "Cache-Control": _FOR_NOW if name.strip().lower() == job.image_hash else _FOR_EVER,
            "Content-Disposition": f'inline; filename="{job.uid}-{file_name}"',
        },
    )


def _known(file_name: str) -> tuple[str, FileType | None, str]:
    try:
        return FILES[file_name]
    except KeyError:
        raise JobNotFoundError(f"no such file; a job has {', '.join(FILES)}") from None


async def _read(service: JobService, artifact: Artifact, file_type: FileType | None) -> bytes:
    content = await service.read_file(artifact)
    return content if file_type is None else await as_file(content, file_type)


_FILE_REPLIES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The file.",
        "content": dict.fromkeys(("image/png", *MEDIA_TYPES.values()), _BINARY),
        "headers": {"ETag": {"schema": {"type": "string"}}},
    },
    206: {"description": "The range of it that was asked for."},
    304: {"description": "It is the one that the client has."},
    416: {"description": "It is shorter than that."},
    **errors(401, 404, 500),
    **_NOT_MEANT,
}
router.add_api_route(
    "/jobs/{name}/{file_name}",
    file,
    methods=["GET"],
    response_class=Response,
    summary="A file of a job",
    responses=_FILE_REPLIES,
)
router.add_api_route("/jobs/{name}/{file_name}", file, methods=["HEAD"], include_in_schema=False)


@router.post(
    "/jobs/{name}/export",
    response_class=Response,
    summary="A job's model, exported with other parameters",
    responses={
        200: {
            "description": "The model, a GLB unless another `type` was asked for.",
            "content": dict.fromkeys(MEDIA_TYPES.values(), _BINARY),
        },
        **errors(400, 401, 404, 409, 413, 429, 500, 503),
        **_NOT_MEANT,
    },
    openapi_extra=export_body({"decimation_target": 50_000, "texture_size": 1024}),
)
async def export(request: Request, name: Name) -> Response:
    """Makes the file anew from what is kept of the job, without running the model.

    What is not said is as it was for the job. The textured model where there is a texture,
    unless `texture` says `false`.
    """
    service = service_of(request)
    job = await service.get_job(name, caller_of(request))
    max_bytes = request.app.state.settings.server.max_body_bytes
    fields = (await parse_request(request, max_bytes=max_bytes, may_be_empty=True)).fields
    options, wanted = read_export(fields, job.options), read_delivery(fields)
    glb = await while_connected(request, service.export(job, options, texture=wanted.texture))
    content = await as_file(glb, wanted.type)
    return Response(content, media_type=MEDIA_TYPES[wanted.type], headers=model_headers(job))
