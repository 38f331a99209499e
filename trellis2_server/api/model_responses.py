"""A job's model as an HTTP response: file types, headers and conversion.

Does not know: which route it is for, how models are made.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from fastapi import Response

from trellis2_server.export import formats

if TYPE_CHECKING:
    from trellis2_server.jobs.job import Job
    from trellis2_server.parameters import FileType

MEDIA_TYPES: Final[dict[FileType, str]] = {
    "glb": "model/gltf-binary",
    "obj": "model/obj",
    "ply": "model/ply",
    "stl": "model/stl",
    "obj_zip": "application/zip",
}
#: Headers of every response that contains a model.
MODEL_HEADERS: Final = ("X-Image-Hash", "X-Job-Id", "X-Seed", "X-Engine", "X-Background")
#: OpenAPI schema of a file.
BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
#: OpenAPI description of a response that contains a model.
MODEL_RESPONSE: Final[dict[str, Any]] = {
    "description": "The model, a GLB unless the request sets another `type`.",
    "content": dict.fromkeys(MEDIA_TYPES.values(), BINARY),
}


async def model_response(job: Job, glb: bytes, file_type: FileType) -> Response:
    """Return a job's model in a response, converted to the file type.

    Raises:
        ExportError: the conversion failed.
    """
    content = await convert(glb, file_type)
    return Response(content, media_type=MEDIA_TYPES[file_type], headers=_headers(job))


async def convert(glb: bytes, file_type: FileType) -> bytes:
    """Convert a GLB to another file type, off the event loop.

    Raises:
        ExportError: the conversion failed.
    """
    if file_type == "glb":
        return glb
    return await asyncio.to_thread(formats.convert, glb, file_type)


def _headers(job: Job) -> dict[str, str]:
    values = (
        job.image_hash or "", job.uid, str(job.options.seed), job.engine, job.background or "",
    )  # fmt: skip
    return dict(zip(MODEL_HEADERS, values, strict=True))
