"""What a request orders, in whichever client's words; and what it gets for it.

What this module does not know: which route it is for, threads, engines.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.requests import ClientDisconnect

from trellis2_server.api.request_parsing import parse_request
from trellis2_server.errors import InputError, JobNotFoundError
from trellis2_server.export import formats
from trellis2_server.jobs.executor import md5
from trellis2_server.jobs.job import Caller
from trellis2_server.parameters import Delivery, FileType, Options, read_delivery, read_options

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fastapi import Request

    from trellis2_server.api.request_parsing import ParsedRequest
    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.service import JobService
    from trellis2_server.settings import Settings

T = TypeVar("T")

MEDIA_TYPES: Final[dict[FileType, str]] = {
    "glb": "model/gltf-binary",
    "obj": "model/obj",
    "ply": "model/ply",
    "stl": "model/stl",
    "obj_zip": "application/zip",
}


@dataclass(frozen=True, slots=True, eq=False)
class GenerationRequest:
    """What a request asks for.

    Attributes:
        body: all that it said.
        options: what is to be made.
        delivery: what is to be sent back.
    """

    body: ParsedRequest
    options: Options
    delivery: Delivery


async def read_generation_request(request: Request, settings: Settings) -> GenerationRequest:
    """What the request asks for.

    Raises:
        InputError: it cannot be meant; names the field.
        TooLargeError: it is over a limit.
    """
    body = await parse_request(request, max_bytes=settings.server.max_body_bytes)
    digest = await asyncio.to_thread(md5, body.mesh) if body.mesh else None
    return GenerationRequest(
        body, read_options(body.fields, settings, digest), read_delivery(body.fields)
    )


def service_of(request: Request) -> JobService:
    """The job service of this application."""
    return request.app.state.service


def caller_of(request: Request) -> Caller:
    """Who asks, as the middleware that checks the keys has found."""
    return Caller(request.state.owner, request.state.client)


async def submit(
    generation: GenerationRequest, service: JobService, caller: Caller, *, texture: bool | None
) -> Job:
    """Submit a generation request; return its job.

    Args:
        generation: the parsed request.
        service: the job service.
        caller: the client.
        texture: as of `JobManager.submit`.

    Raises:
        InputError: there is no picture to go by.
        UnavailableError: not now.
    """
    body = generation.body
    if body.picture is not None:
        return await service.submit(
            body.picture, generation.options, caller, texture=texture, mesh=body.mesh
        )
    job = await service.find_by_shape(generation.options.mesh, caller)
    if job is not None:
        return job
    if body.fields.get("text") is not None:
        raise InputError(
            "text: there is no text-to-image model here; send an image of what you want"
        )
    if body.mesh is not None:
        raise InputError("image: missing; a mesh is textured after a picture")
    raise InputError("image: missing; send it as base64, as a file, or as the body")


async def generate_model(
    generation: GenerationRequest, service: JobService, caller: Caller
) -> tuple[Job, bytes]:
    """Run a generation request; return its job and its model.

    A model that turns out to be lost is made anew.

    Raises:
        ServerError: why there is none.
    """
    try:
        return await _model(generation, service, caller)
    except JobNotFoundError:
        return await _model(generation, service, caller)


async def _model(
    generation: GenerationRequest, service: JobService, caller: Caller
) -> tuple[Job, bytes]:
    wanted = generation.delivery.texture
    job = await submit(generation, service, caller, texture=wanted)
    job = await (service.wait_for_texture(job) if wanted else service.wait_for_shape(job))
    artifact = job.textured_glb if wanted else job.shape_glb
    return job, await service.read_file(artifact)


def model_headers(job: Job) -> dict[str, str]:
    """What a reply says of the job whose model it is."""
    return {
        "X-Image-Hash": job.image_hash or "",
        "X-Job-Id": job.uid,
        "X-Seed": str(job.options.seed),
        "X-Engine": job.engine,
        "X-Background": job.background or "",
    }


async def while_connected(request: Request, call: Coroutine[Any, Any, T]) -> T:
    """The call's result; the call is cancelled when the client goes away."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    waiting, leaving = asyncio.ensure_future(call), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientDisconnect
        return waiting.result()
    finally:
        leaving.cancel()
        waiting.cancel()


async def as_file(glb: bytes, file_type: FileType) -> bytes:
    """The model as a file of that type.

    Raises:
        ExportError: it cannot be written so.
    """
    if file_type == "glb":
        return glb
    return await asyncio.to_thread(formats.convert, glb, file_type)
