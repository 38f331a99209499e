"""Generation requests: reading one, submitting its job, and waiting for its model.

Does not know: routes, threads, engines.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trellis2_server.api.outbound_fields import (
    PICTURE_URL,
    fetch_picture,
    fetch_pictures,
    read_text,
    read_webhook,
)
from trellis2_server.api.picture_fields import SINGLE, UnfetchedPictures
from trellis2_server.api.request_parsing import parse_request
from trellis2_server.digests import md5
from trellis2_server.errors import InputError, JobNotFoundError, UnavailableError
from trellis2_server.inputs.images import count_of
from trellis2_server.inputs.meshes import check_beginning
from trellis2_server.jobs.text_pictures import NO_SERVER
from trellis2_server.parameters import Delivery, Options, read_delivery, read_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fastapi import Request

    from trellis2_server.api.inflight_bodies import BodyAccount
    from trellis2_server.inputs.images import Pictures
    from trellis2_server.jobs.job import Caller, Job
    from trellis2_server.jobs.service import JobService
    from trellis2_server.jobs.webhook import Webhook
    from trellis2_server.settings import Settings
    from trellis2_server.storage.content import Content


@dataclass(slots=True, eq=False, repr=False)
class GenerationRequest:
    """A parsed and validated generation request.

    Attributes:
        fields: the fields as sent, without the files.
        picture: content of the picture file, or of several; None if there is none, or not any
            more.
        mesh: content of the mesh file; None if there is none, or not any more.
        options: parameters of the job.
        delivery: which model to return, and its file type.
        account: the bytes of the files.
        has_released_files: whether `picture` and `mesh` are not there any more.
        text: what a picture is to be made of, where there is none and this server can.
        webhook: where to tell of the job; None: nowhere.
    """

    fields: Mapping[str, object]
    picture: Pictures | None
    mesh: bytes | None
    options: Options
    delivery: Delivery
    account: BodyAccount
    has_released_files: bool = False
    text: str | None = None
    webhook: Webhook | None = None

    def release_files(self) -> None:
        """Forget the files: the job has them, and the request only waits."""
        self.picture = self.mesh = None
        self.has_released_files = True
        self.account.close()


@dataclass(frozen=True, slots=True)
class RequestForm:
    """How a protocol writes generation requests.

    Attributes:
        names: its names of files; see `parse_request`.
        translate: returns the fields as this server calls them, of those that were sent. Raises
            `InputError`.
    """

    names: Mapping[str, str]
    translate: Callable[[Mapping[str, object]], dict[str, object]]


_NATIVE: Final = RequestForm({}, dict)


async def read_generation_request(
    request: Request, settings: Settings, form: RequestForm = _NATIVE
) -> GenerationRequest:
    """Parse and validate a request.

    Args:
        request: the request, its body not read.
        settings: the server's settings.
        form: how the request's protocol writes it.

    Raises:
        InputError: a field is invalid; the message names it.
        TooLargeError: the body or a file exceeds a limit.
    """
    max_bytes = settings.server.max_body_bytes
    parsed = await parse_request(request, max_bytes=max_bytes, names=form.names)
    fields = form.translate(parsed.fields)
    mesh_md5 = await asyncio.to_thread(_identify_mesh, parsed.mesh) if parsed.mesh else None
    unfetched = parsed.picture if isinstance(parsed.picture, UnfetchedPictures) else None
    pictures = None if isinstance(parsed.picture, UnfetchedPictures) else parsed.picture
    count = count_of(pictures) if unfetched is None else len(unfetched.entries)
    generation = GenerationRequest(
        fields,
        pictures,
        parsed.mesh,
        read_options(fields, settings, mesh_md5, pictures=count),
        read_delivery(fields, has_mesh=parsed.mesh is not None),
        request.state.body,
        webhook=read_webhook(fields, settings),
    )
    if unfetched is not None:
        generation.picture = await fetch_pictures(request, settings, unfetched)
    for name in (SINGLE, PICTURE_URL):
        if generation.picture is None and fields.get(name) is not None:
            generation.picture = await fetch_picture(request, settings, fields[name], name)
    if generation.picture is None and settings.text_to_image.url is not None:
        generation.text = read_text(fields)
    return generation


async def submit(
    generation: GenerationRequest, service: JobService, caller: Caller, *, texture: bool | None
) -> Job:
    """Submit a request and return its job, which may have existed before.

    A request without a picture is accepted if this server can have one made of its text, or if its
    mesh is the untextured model of a job.

    Args:
        generation: the request.
        service: the job service.
        caller: the client.
        texture: whether to make a texture; see `JobService.submit`.

    Raises:
        InputError: the request has no picture.
        UnavailableError: the server cannot accept jobs at the moment.
    """
    job = await _submit(generation, service, caller, texture=texture)
    if generation.webhook is not None:
        await service.add_webhook(job, generation.webhook)
    return job


async def _submit(
    generation: GenerationRequest, service: JobService, caller: Caller, *, texture: bool | None
) -> Job:
    if generation.picture is not None:
        return await service.submit(
            generation.picture, generation.options, caller, texture=texture, mesh=generation.mesh
        )
    if generation.text is not None:
        return await service.submit_text(
            generation.text, generation.options, caller, texture=texture, mesh=generation.mesh
        )
    job = await service.find_by_shape(generation.options.mesh, caller)
    if job is not None:
        return job
    if generation.fields.get("text") is not None:
        raise InputError(NO_SERVER)
    if generation.mesh is not None:
        raise InputError("image: missing; texturing a mesh needs a picture")
    raise InputError("image: missing; send it as base64, as a file, or as the body")


async def generate_model(
    generation: GenerationRequest, service: JobService, caller: Caller
) -> tuple[Job, Content]:
    """Run a request; return its job and its model in the requested file type.

    If the stored model of a matching job is lost, it is generated again. The request's files are
    released while its job is waited for, and when its model is there.

    Raises:
        UnavailableError: the stored model of a job that matched after the cut-out is lost.
        ServerError: the model could not be made.
    """
    try:
        return await _generate_model(generation, service, caller)
    except JobNotFoundError:
        if generation.has_released_files:
            raise
        return await _generate_model(generation, service, caller)


async def _generate_model(
    generation: GenerationRequest, service: JobService, caller: Caller
) -> tuple[Job, Content]:
    texture = generation.delivery.texture
    job = await submit(generation, service, caller, texture=texture)
    if (job.textured_glb if texture else job.shape_glb) is None:
        generation.release_files()
    job = await (service.wait_for_texture(job) if texture else service.wait_for_shape(job))
    model = job.textured_glb if texture else job.shape_glb
    form = generation.delivery.form
    try:
        content = await service.convert(model, form, caller, is_delivery=True)
    except JobNotFoundError as error:
        if not generation.has_released_files:
            raise
        raise UnavailableError(
            "the stored model is lost; send the request again", retry_after_s=1
        ) from error
    generation.release_files()  # a client may take minutes to read the response
    return job, content


async def find_texture(
    generation: GenerationRequest, service: JobService, caller: Caller, timeout_s: float
) -> Job:
    """Return the job that a request identifies, or starts with a mesh, with its textured GLB.

    The request's files are released while the texture is waited for.

    Args:
        generation: the request.
        service: the job service.
        caller: the client.
        timeout_s: maximum time to wait for the texture, seconds.

    Raises:
        TextureTimeoutError: the texture was not ready in time.
        ServerError: there is no such job, or the texture could not be made.
    """
    if generation.mesh is None:
        job = await find_job(generation, service, caller)
        if generation.webhook is not None:
            await service.add_webhook(job, generation.webhook)
    else:
        job = await submit(generation, service, caller, texture=True)
    generation.release_files()
    return await service.wait_for_texture(job, timeout_s)


async def find_job(generation: GenerationRequest, service: JobService, caller: Caller) -> Job:
    """Return the job that a request identifies by `image_hash`, `uid` or `image`.

    Raises:
        InputError: the request has none of these, or an invalid one.
        JobNotFoundError: there is no such job.
    """
    for field in ("image_hash", "uid"):
        name = generation.fields.get(field)
        if name is not None:
            if not isinstance(name, str):
                raise InputError(f"{field}: must be a string")
            return await service.get_job(name, caller)
    if generation.picture is None:
        raise InputError("image_hash: missing; name the job by image_hash, uid or image")
    remove_background = generation.options.remove_background
    name = await service.identify(generation.picture, caller, remove_background=remove_background)
    return await service.get_job(name, caller)


def _identify_mesh(content: bytes) -> str:
    """Return the MD5 of a mesh file, unless its beginning is that of another kind of file."""
    check_beginning(content)
    return md5(content)
