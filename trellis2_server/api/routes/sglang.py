"""The routes of SGLang's mesh API: `/v1/meshes`.

They are modelled on OpenAI's `/v1/videos`: create a job, ask for it, and get its content.

Does not know: how jobs are run, threads, engines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from trellis2_server.api.dependencies import CallerDep, LinksDep, ServiceDep, SettingsDep
from trellis2_server.api.generation import RequestForm, read_generation_request, submit
from trellis2_server.api.head_routes import head_response
from trellis2_server.api.model_responses import (
    BINARY,
    MEDIA_TYPES,
    convert_on_get,
    model_response,
)
from trellis2_server.api.outbound_fields import PICTURE_URL
from trellis2_server.api.responses import is_waiting, percent_of
from trellis2_server.api.schemas import EXAMPLE_PICTURE, openai_errors
from trellis2_server.errors import InputError, JobNotFoundError
from trellis2_server.jobs.job import Status
from trellis2_server.parameters import Delivery
from trellis2_server.request_fields import EXTENSIONS, MAX_PICTURES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trellis2_server.api.links import LinkSigner
    from trellis2_server.jobs.job import Caller
    from trellis2_server.jobs.service import JobService, JobView
    from trellis2_server.parameters import FileForm
    from trellis2_server.storage.store import Artifact

Format = Literal["glb", "obj"]

_FORMATS: Final[tuple[Format, ...]] = ("glb", "obj")
#: Jobs of a page, at most; and where the request does not say.
MAX_LIMIT: Final = 100

router = APIRouter()


class MeshError(BaseModel):
    """Why a mesh was not made."""

    message: str


class MeshReply(BaseModel):
    """A mesh, or the job that makes it."""

    id: str = Field(description="Id for `/v1/meshes/{mesh_id}`.")
    object: Literal["mesh"] = "mesh"
    model: str = Field(description="Name of the engine.")
    status: Literal["queued", "in_progress", "completed", "failed", "deleted"]
    progress: int = Field(description="0 … 100.")
    created_at: int = Field(description="Unix seconds.")
    format: Format = Field(description="Type of the content.")
    url: str | None = Field(description="URL of the content; null: not completed.")
    completed_at: int | None = Field(description="Unix seconds; null: not completed.")
    expires_at: None = None
    error: MeshError | None = None
    file_path: None = None
    file_size_bytes: int | None = Field(description="Size of the GLB; null: not completed.")
    peak_memory_mb: None = None
    inference_time_s: float | None = Field(description="Duration of the job; null: not completed.")


class MeshesReply(BaseModel):
    """A page of meshes."""

    data: list[MeshReply]
    object: Literal["list"] = "list"


def _translate(sent: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a request as this server calls them.

    Raises:
        InputError: there are several pictures by URL.
    """
    seed = sent.get("seed")
    if isinstance(seed, list):  # one for each output; there is one
        seed = seed[0] if seed else None
    # SGLang writes GLB for every format that it does not know.
    wanted = str(sent.get("output_format") or "glb").lower()
    fields = {name: value for name, value in sent.items() if name not in {"seed", "prompt"}}
    if seed is not None:
        fields["seed"] = seed
    if sent.get("prompt") and fields.get("text") is None:
        fields["text"] = sent["prompt"]
    urls = fields.get(PICTURE_URL)
    if isinstance(urls, list) and len(urls) == 1:
        fields[PICTURE_URL] = urls[0]
    elif isinstance(urls, list):
        raise InputError(f"{PICTURE_URL}: one URL at most; send several pictures as image[]")
    return fields | {"texture": True, "type": wanted if wanted in _FORMATS else "glb"}


_FORM: Final = RequestForm(
    {
        "input_image": "image",
        "image[]": "images",
        "url": PICTURE_URL,
        "url[]": PICTURE_URL,
    },
    _translate,
)
_OTHERS: Final[dict[str, Any]] = {
    "prompt": {"type": "string", "description": "As text: ignored beside a picture."},
    "model": {"type": "string", "description": "Ignored: this server has one model."},
    "seed": {"type": "integer", "description": "Random seed."},
    "guidance_scale": {"type": "number", "minimum": 0, "maximum": 20},
    "num_inference_steps": {"type": "integer", "minimum": 1, "maximum": 100},
    "output_format": {"type": "string", "enum": list(_FORMATS), "default": "glb"},
}
_PICTURE: Final = {"type": "string", "description": "Picture, base64; may have a data: prefix."}
_URL: Final = {"type": "string", "description": "As image_url, in place of a picture."}
_FILES: Final = {
    "type": "array",
    "items": {"type": "string", "format": "binary"},
    "maxItems": MAX_PICTURES,
    "description": "Pictures of one object, the front first.",
}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "Every field of `/generate` may be there, too.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"input_image": _PICTURE, "url": _URL, **_OTHERS},
                },
                "example": {"input_image": EXAMPLE_PICTURE, "output_format": "glb"},
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "string", "format": "binary", "description": "Picture."},
                        "image[]": _FILES,
                        "url": _URL,
                        **_OTHERS,
                    },
                }
            },
        },
    }
}
MeshId = Annotated[str, Path(description="Id of a mesh, or uid of a job.")]


@router.post(
    "/v1/meshes",
    summary="Start to make a mesh",
    responses=openai_errors(400, 401, 413, 415, 429, 503),
    openapi_extra=_BODY,
)
async def create(
    request: Request,
    service: ServiceDep,
    caller: CallerDep,
    settings: SettingsDep,
    links: LinksDep,
) -> MeshReply:
    """Return the job at once."""
    generation = await read_generation_request(request, settings, _FORM)
    job = await submit(generation, service, caller, texture=True)
    is_glb = generation.delivery.form == "glb"
    name = job.uid if is_glb else await service.create_alias(job, generation.delivery)
    view = await service.get_view(name, caller)
    return _reply(request, view, links, name)


@router.get("/v1/meshes", summary="List the meshes", responses=openai_errors(400, 401, 404))
async def meshes(  # noqa: PLR0913, PLR0917 - FastAPI's dependencies
    request: Request,
    service: ServiceDep,
    caller: CallerDep,
    links: LinksDep,
    after: Annotated[str | None, Query(description="Id of the mesh before the first one.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Meshes, at most.")] = MAX_LIMIT,
    order: Annotated[Literal["asc", "desc"], Query(description="By time of creation.")] = "desc",
) -> MeshesReply:
    """List all jobs, whoever's protocol they came by; with API keys, only those of the key."""
    if order == "desc":
        views, _ = await service.list_jobs(caller, limit=limit, before=after)
    else:
        views = _after(await _oldest_first(service, caller), after)[:limit]
    return MeshesReply(data=[_reply(request, view, links, view.job.uid) for view in views])


async def _oldest_first(service: JobService, caller: Caller) -> list[JobView]:
    found: list[JobView] = []
    has_more = True
    while has_more:
        before = found[-1].job.uid if found else None
        views, has_more = await service.list_jobs(caller, limit=MAX_LIMIT, before=before)
        found += views
    return found[::-1]


def _after(views: Sequence[JobView], uid: str | None) -> Sequence[JobView]:
    if uid is None:
        return views
    uids = [view.job.uid for view in views]
    if uid not in uids:
        raise JobNotFoundError("after: there is no such mesh")
    return views[uids.index(uid) + 1 :]


@router.get("/v1/meshes/{mesh_id}", summary="Get a mesh", responses=openai_errors(401, 404))
async def mesh(
    request: Request, mesh_id: MeshId, service: ServiceDep, caller: CallerDep, links: LinksDep
) -> MeshReply:
    """Return the state of a job."""
    return _reply(request, await service.get_view(mesh_id, caller), links, mesh_id)


@router.delete(
    "/v1/meshes/{mesh_id}", summary="Delete a mesh", responses=openai_errors(401, 404, 503)
)
async def delete(
    request: Request, mesh_id: MeshId, service: ServiceDep, caller: CallerDep, links: LinksDep
) -> MeshReply:
    """Cancel a job or, if it is finished, delete it; see `DELETE /jobs/{name}`."""
    view = await service.get_view(mesh_id, caller)
    await service.delete(mesh_id, caller)
    reply = _reply(request, view, links, mesh_id)
    return reply.model_copy(update={"status": "deleted", "url": None})


@router.get(
    "/v1/meshes/{mesh_id}/content",
    response_class=Response,
    summary="Get the content of a mesh",
    responses={
        200: {
            "description": "The model.",
            "content": {MEDIA_TYPES[each]: BINARY for each in _FORMATS},
        },
        **openai_errors(401, 404, 429, 500, 503),
    },
)
async def content(
    request: Request, mesh_id: MeshId, service: ServiceDep, caller: CallerDep
) -> Response:
    """Return the model in its format; of a job that is not completed, 404."""
    view = await service.get_view(mesh_id, caller)
    model = _model(view)
    if model is None:
        raise JobNotFoundError(_why_missing(view))
    form = _form(view)
    file_type = form if isinstance(form, str) else form.type
    if request.method == "HEAD":  # makes no file
        return head_response(MEDIA_TYPES[file_type])
    made = await convert_on_get(request, service, model, form, caller, is_delivery=True)
    response = model_response(view.job, made, file_type)
    name = f"{view.job.uid}.{EXTENSIONS[file_type]}"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _form(view: JobView) -> FileForm:
    return view.delivery.form if view.delivery else "glb"


def _model(view: JobView) -> Artifact | None:
    """Return the final model of a job that is completed; None of others."""
    return view.job.model if view.job.status is Status.COMPLETED else None


def _why_missing(view: JobView) -> str:
    if view.job.status.is_finished:
        return str(view.job.error or "this job has no such model")
    return "the mesh is not completed yet"


def _reply(request: Request, view: JobView, links: LinkSigner, name: str) -> MeshReply:
    job, model = view.job, _model(view)
    delivery = view.delivery or Delivery(texture=True, type="glb")
    is_made = model is not None
    format_: Format = "obj" if delivery.type == "obj" else "glb"
    url = None
    if model is not None:
        file = f"{model.name.rpartition('.')[0]}.{EXTENSIONS[format_]}"
        url = links.link(f"{request.base_url}jobs/{job.uid}/{file}", job.uid, job.owner)
    ended = job.finished_unix_s if is_made else None
    return MeshReply(
        id=name,
        model=job.engine,
        status=_status(view),
        progress=percent_of(job),
        created_at=int(job.created_unix_s),
        format=format_,
        url=url,
        completed_at=None if ended is None else int(ended),
        error=MeshError(message=str(job.error)) if job.error else None,
        file_size_bytes=model.size if model else None,
        inference_time_s=None if ended is None else round(ended - job.created_unix_s, 3),
    )


def _status(view: JobView) -> Literal["queued", "in_progress", "completed", "failed"]:
    status = view.job.status
    if status is Status.COMPLETED:
        return "completed"
    if status.is_finished:
        return "failed"
    return "queued" if is_waiting(view.job) else "in_progress"
