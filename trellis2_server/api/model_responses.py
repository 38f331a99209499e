"""A job's model as an HTTP response: file types and headers.

Does not know: which route it is for, how models are made.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any, Final

from fastapi.responses import StreamingResponse

from trellis2_server.api.disconnects import while_connected
from trellis2_server.request_fields import EXTENSIONS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from fastapi import Request, Response

    from trellis2_server.jobs.job import Caller, Job
    from trellis2_server.jobs.service import JobService
    from trellis2_server.parameters import DerivedForm, FileType
    from trellis2_server.storage.content import Content
    from trellis2_server.storage.store import Artifact

MEDIA_TYPES: Final[dict[FileType, str]] = {
    "glb": "model/gltf-binary",
    "obj": "model/obj",
    "ply": "model/ply",
    "stl": "model/stl",
    "obj_zip": "application/zip",
    "gltf_zip": "application/zip",
    "3mf": "model/3mf",
    "usdz": "model/vnd.usdz+zip",
}
#: Headers of every response that contains a model; the last one only if there are warnings.
MODEL_HEADERS: Final = (
    "X-Image-Hash", "X-Job-Id", "X-Seed", "X-Engine", "X-Background", "X-Warnings"
)  # fmt: skip
#: Bytes of a model that are encoded as base64 at a time; a multiple of three.
BASE64_CHUNK_BYTES: Final = 3 * 32_768
#: OpenAPI schema of a file.
BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
#: OpenAPI description of a response that contains a model.
MODEL_RESPONSE: Final[dict[str, Any]] = {
    "description": "The model, a GLB unless the request sets another `type`.",
    "content": dict.fromkeys(MEDIA_TYPES.values(), BINARY),
}


def model_response(
    job: Job,
    content: Content,
    file_type: FileType,
    *,
    export_warnings: Sequence[str] | None = None,
) -> Response:
    """Return a job's model, which has that file type, in a response.

    Args:
        job: the job.
        content: the file.
        file_type: its type.
        export_warnings: warnings of a file that is not one of the job's, and that is to be saved
            under its own name; None: it is one of the job's.
    """
    warnings = job.warnings if export_warnings is None else export_warnings
    headers = {**_headers(job, warnings), "Content-Length": str(content.size)}
    if export_warnings is not None:
        name = f"{job.uid}-export.{EXTENSIONS[file_type]}"
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return StreamingResponse(content.chunks(), media_type=MEDIA_TYPES[file_type], headers=headers)


async def convert_on_get(  # noqa: PLR0913 - the service's arguments, and the request
    request: Request,
    service: JobService,
    model: Artifact,
    form: DerivedForm,
    caller: Caller,
    *,
    is_delivery: bool = False,
) -> Content:
    """Return a stored GLB in another form for a GET, which counts if the file is made for it.

    A delivery does not count again: its `/send` has. Clients that poll know no 429.

    Args:
        request: the GET; when its client disconnects, it waits no longer.
        service: the job service.
        model: the stored GLB.
        form: the type, and the placement; or a picture.
        caller: the client.
        is_delivery: see `JobService.convert`.

    Raises:
        TooManyRequestsError: the client exceeds a limit.
        ServerError: the conversion failed.
    """
    counts = form != "glb" and not is_delivery
    if counts and await service.find_conversion(model, form) is None:
        request.app.state.rate_limit.take(caller.client)
    conversion = service.convert(model, form, caller, is_delivery=is_delivery)
    return await while_connected(request, conversion)


def base64_response(head: bytes, content: Content, tail: bytes) -> Response:
    """Return a file in base64 inside JSON, encoded while it is sent.

    Args:
        head: the JSON before the base64.
        content: the file.
        tail: the JSON after the base64.
    """
    size = len(head) + (content.size + 2) // 3 * 4 + len(tail)
    return StreamingResponse(
        _base64(head, content, tail),
        media_type="application/json",
        headers={"Content-Length": str(size)},
    )


async def _base64(head: bytes, content: Content, tail: bytes) -> AsyncGenerator[bytes]:
    """Yield the parts of a body, and let other requests run between them."""
    yield head
    async for chunk in content.chunks(chunk_bytes=BASE64_CHUNK_BYTES):
        yield base64.b64encode(chunk)
        await asyncio.sleep(0)
    yield tail


def _headers(job: Job, warnings: Sequence[str]) -> dict[str, str]:
    values = (
        job.image_hash or "", job.uid, str(job.options.seed), job.engine, job.background or "",
        json.dumps(list(warnings)) if warnings else None,
    )  # fmt: skip
    pairs = zip(MODEL_HEADERS, values, strict=True)
    return {name: value for name, value in pairs if value is not None}
