"""The routes of a job's files.

Does not know: where files are stored, how they are made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

from fastapi import APIRouter, Path, Request, Response

from trellis2_server import __version__
from trellis2_server.api.dependencies import CallerDep, ServiceDep, UidOrHash
from trellis2_server.api.file_responses import PERMANENT, REVALIDATE, file_response
from trellis2_server.api.model_responses import BINARY, MEDIA_TYPES, convert_on_get
from trellis2_server.api.responses import INVALID_REQUEST
from trellis2_server.api.schemas import FILE_PARAMETERS, errors
from trellis2_server.digests import md5
from trellis2_server.errors import InputError, JobNotFoundError
from trellis2_server.jobs.job import VIEW_FILES
from trellis2_server.parameters import FileType, read_delivery
from trellis2_server.request_fields import EXTENSIONS

if TYPE_CHECKING:
    from trellis2_server.jobs.job import Job
    from trellis2_server.parameters import Delivery
    from trellis2_server.storage.store import Artifact


@dataclass(frozen=True, slots=True)
class JobFile:
    """A file that clients can request of a job.

    Attributes:
        name: name of the file.
        source: name of the stored file that it is converted from.
        media_type: media type of the content.
        convert_to: file type to convert to; None: the stored file is sent as it is.
    """

    name: str
    source: str
    media_type: str
    convert_to: FileType | None = None

    def etag(self, job: Job, artifact: Artifact, delivery: Delivery) -> str:
        """Return the file's entity tag, which differs between versions of the converter."""
        if delivery.form == "glb":
            return artifact.etag
        placed = f"-{md5(repr(delivery.placement).encode())}" if delivery.placement else ""
        return f'"{job.uid}-{self.name}-{__version__}{placed}"'


def _model_files(kind: str) -> list[JobFile]:
    stored = f"{kind}.glb"
    converted = [
        JobFile(
            f"{kind}.{EXTENSIONS[file_type]}",
            stored,
            MEDIA_TYPES[file_type],
            file_type,
        )
        for file_type in get_args(FileType)
        if file_type != "glb"
    ]
    return [JobFile(stored, stored, MEDIA_TYPES["glb"]), *converted]


#: All files that clients can request of a job, by name.
FILES: Final = {
    file.name: file
    for file in (
        JobFile("input.png", "input.png", "image/png"),
        *(JobFile(name, stored, "image/png") for name, stored in VIEW_FILES.items()),
        *_model_files("shape"),
        *_model_files("textured"),
    )
}
_FILE_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The file.",
        "content": dict.fromkeys(("image/png", *MEDIA_TYPES.values()), BINARY),
        "headers": {"ETag": {"schema": {"type": "string"}}},
    },
    206: {"description": "The requested range of the file."},
    304: {"description": "The client has the current file."},
    416: {"description": "The requested range is outside of the file."},
    **errors(401, 404, 429, 500, 503),
    **INVALID_REQUEST,
}

router = APIRouter()


async def file(
    request: Request,
    name: UidOrHash,
    file_name: Annotated[
        str,
        Path(
            description="`input.png`, the cut-out picture; of a job with several, all of them, "
            "and each as `input-1.png`, `input-2.png`, …; or `shape` or `textured` with `.glb`, "
            "`.obj`, `.ply`, `.stl`, `.3mf`, `.usdz`, `.zip` (OBJ with its textures) or "
            "`.gltf.zip`."
        ),
    ],
    service: ServiceDep,
    caller: CallerDep,
) -> Response:
    """Return a file with an ETag, as soon as it is available. Ranges are supported.

    The query says how the model lies in the file, see `/jobs/{id}/export`.

    HEAD makes no file: without `Content-Length`, the file would have to be converted first.
    """
    requested = _find(file_name)
    job, artifact = await service.get_file(name, requested.source, caller)
    is_model = requested.media_type != "image/png"
    query = request.query_params if is_model else {}
    delivery = read_delivery({**query, "type": requested.convert_to or "glb"})
    _check_is_convertible(requested, job)
    # A uid always refers to the same job, whereas an image hash can later refer to a newer one.
    is_hash = name.strip().lower() == job.image_hash
    is_made = delivery.form == "glb"
    stored = artifact if is_made else await service.find_conversion(artifact, delivery.form)
    return await file_response(
        request,
        partial(convert_on_get, request, service, artifact, delivery.form, caller),
        etag=requested.etag(job, artifact, delivery),
        size=stored.size if stored else None,
        media_type=requested.media_type,
        headers={
            "Cache-Control": REVALIDATE if is_hash else PERMANENT,
            "Content-Disposition": f'inline; filename="{job.uid}-{file_name}"',
        },
    )


def _find(file_name: str) -> JobFile:
    try:
        return FILES[file_name]
    except KeyError:
        raise JobNotFoundError(f"no such file; a job has {', '.join(FILES)}") from None


def _check_is_convertible(file: JobFile, job: Job) -> None:
    if file.convert_to is not None and job.options.compress:
        raise InputError(
            f"{file.name}: this job's geometry is compressed; "
            f"POST /jobs/{job.uid}/export with that type"
        )


router.add_api_route(
    "/jobs/{name}/{file_name}",
    file,
    methods=["GET"],
    response_class=Response,
    summary="Get a file of a job",
    openapi_extra={"parameters": FILE_PARAMETERS},
    responses=_FILE_RESPONSES,
)
router.add_api_route("/jobs/{name}/{file_name}", file, methods=["HEAD"], include_in_schema=False)
