"""The routes of StableProjectorz' servers for 3D models.

Their protocol knows one generation at a time, without a name. Here it is the caller's newest job:
that of its API key or, on a server without keys, of all clients.

Does not know: how jobs are run, threads, engines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from trellis2_server.api.dependencies import CallerDep, ServiceDep, SettingsDep
from trellis2_server.api.disconnects import while_connected
from trellis2_server.api.generation import RequestForm, generate_model, read_generation_request
from trellis2_server.api.head_routes import head_response
from trellis2_server.api.model_responses import BINARY, MEDIA_TYPES, model_response
from trellis2_server.api.responses import INVALID_REQUEST, percent_of
from trellis2_server.api.schemas import URLENCODED, errors
from trellis2_server.errors import InputError, JobNotFoundError
from trellis2_server.jobs.job import Status
from trellis2_server.request_fields import MAX_PICTURES, MAX_SEED, RANDOM_SEED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.jobs.job import Caller
    from trellis2_server.jobs.service import JobService, JobView

#: Names that its clients have for a picture, and for several of one object.
_PICTURES: Final = {
    "file": "image",
    "image_base64": "image",
    "file_list": "images",
    "image_list_base64": "images",
}
#: Its names of fields, for TRELLIS and for TRELLIS.2.
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "slat_guidance_strength": ("shape_guidance_scale",),
    "slat_sampling_steps": ("shape_sampling_steps", "tex_sampling_steps"),
    "num_inference_steps": ("num_inference_steps", "tex_sampling_steps"),
}
#: Faces of which `mesh_simplify_ratio` is the share that is removed: what TRELLIS' meshes have.
RATIO_FACES: Final = 1_000_000
#: `mesh_simplify` of TRELLIS.2's servers is in thousands of faces.
_SIMPLIFY_UNIT: Final = 1_000
_MIN_FACES: Final = 1_000
_PERCENT: Final = 100
_FORMATS: Final = ("glb", "gltf")

router = APIRouter()

TaskStatus = Literal["PROCESSING", "PREVIEW_READY", "COMPLETE", "FAILED"]


class PingReply(BaseModel):
    """Whether the server answers, and is busy."""

    status: Literal["running"] = "running"
    message: str
    busy: bool = Field(description="Whether a generation of this client is in progress.")


class StatusOfGeneration(BaseModel):
    """The present or last generation."""

    status: TaskStatus = Field(description="`FAILED` also before the first generation.")
    progress: int = Field(description="0 … 100.")
    message: str
    busy: bool = Field(description="Whether it is in progress.")


class GenerationResult(BaseModel):
    """A finished generation."""

    status: TaskStatus = "COMPLETE"
    progress: int = _PERCENT
    message: str = "Generation complete"
    preview_urls: None = None
    model_url: str = Field(description="URL of the model, relative to the server's root.")


class InterruptReply(BaseModel):
    """What an interrupt did."""

    status: Literal["interrupt_requested", "no_generation_in_progress"]


def _translate(sent: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a request as this server calls them.

    Raises:
        InputError: a value makes no sense; names the field.
    """
    fields = {name: value for name, value in sent.items() if name not in {*_NAMES, "type"}}
    for name, owns in _NAMES.items():
        if sent.get(name) is not None:
            fields |= {own: sent[name] for own in owns if fields.get(own) is None}
    seed = _number(sent, "seed")
    if seed is not None and seed < RANDOM_SEED and seed.is_integer():
        fields["seed"] = int(seed) % (MAX_SEED + 1)  # its seeds have a sign
    faces = _faces(sent)
    if faces is not None and fields.get("decimation_target") is None:
        fields["decimation_target"] = faces
    output = sent.get("output_format")
    if output not in {None, *_FORMATS}:
        raise InputError(f"output_format: must be one of {', '.join(_FORMATS)}, not {output!s:.40}")
    texture = sent.get("apply_texture", sent.get("texture"))
    fields["texture"] = True if texture is None else texture
    return fields


def _faces(sent: Mapping[str, object]) -> int | None:
    """Return the number of faces that the request wants; None: it does not say."""
    thousands = _number(sent, "mesh_simplify")
    if thousands is not None:
        return max(_MIN_FACES, round(thousands * _SIMPLIFY_UNIT))
    ratio = _number(sent, "mesh_simplify_ratio")
    if ratio is None:
        return None
    share = ratio / _PERCENT if ratio > 1 else ratio
    if not 0 <= share <= 1:
        raise InputError(f"mesh_simplify_ratio: must be 0 to 1, or 0 to 100, not {ratio:g}")
    return max(_MIN_FACES, round((1 - share) * RATIO_FACES))


def _number(sent: Mapping[str, object], name: str) -> float | None:
    value = sent.get(name)
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name}: must be a number, not {value!s:.40}") from error
    if not -2 * MAX_SEED <= number <= 2 * MAX_SEED:  # nor NaN
        raise InputError(f"{name}: must be a number within {2 * MAX_SEED}, not {number:g}")
    return number


_FORM: Final = RequestForm(_PICTURES, _translate)


def _body(name: str, text_name: str, *, is_list: bool) -> dict[str, Any]:
    """Return the OpenAPI request body; a picture is a file, or base64 with another name."""
    fields = {
        "seed": {"type": "integer", "description": "-1: a random one."},
        "ss_guidance_strength": {"type": "number", "minimum": 0, "maximum": 20},
        "ss_sampling_steps": {"type": "integer", "minimum": 1, "maximum": 100},
        "slat_guidance_strength": {"type": "number", "minimum": 0, "maximum": 20},
        "slat_sampling_steps": {"type": "integer", "minimum": 1, "maximum": 100},
        "mesh_simplify_ratio": {
            "type": "number",
            "description": f"Share of {RATIO_FACES} faces to remove, 0 to 1 or 0 to 100.",
        },
        "mesh_simplify": {"type": "number", "description": "Maximum faces, in thousands."},
        "texture_size": {"type": "integer"},
        "output_format": {"type": "string", "enum": list(_FORMATS)},
    }
    file = {"type": "string", "format": "binary", "description": "Picture."}
    text = {"type": "string", "description": "Picture, base64."}
    if is_list:
        file, text = (
            {"type": "array", "items": each, "minItems": 1, "maxItems": MAX_PICTURES}
            for each in (file, text)
        )
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {"type": "object", "properties": {name: file, **fields}}
                },
                URLENCODED: {
                    "schema": {"type": "object", "properties": {text_name: text, **fields}}
                },
            },
        }
    }


@router.get("/ping", summary="Test the connection, for StableProjectorz", responses=errors(401))
async def ping(service: ServiceDep, caller: CallerDep) -> PingReply:
    """Return whether a generation is in progress."""
    return PingReply(message="TRELLIS.2 server", busy=_is_busy(await _current(service, caller)))


@router.get("/status", summary="Get the status of the generation", responses=errors(401))
async def status(service: ServiceDep, caller: CallerDep) -> StatusOfGeneration:
    """Return the status of the caller's newest job."""
    view = await _current(service, caller)
    if view is None:
        return StatusOfGeneration(status="FAILED", progress=0, message="", busy=False)
    job = view.job
    if job.status is Status.COMPLETED:
        return StatusOfGeneration(
            status="COMPLETE", progress=_PERCENT, message="Generation complete", busy=False
        )
    if job.status.is_finished:
        return StatusOfGeneration(
            status="FAILED", progress=0, message=str(job.error or ""), busy=False
        )
    return StatusOfGeneration(
        status="PROCESSING",
        progress=percent_of(job),
        message=job.progress.stage if job.progress else "waiting",
        busy=True,
    )


async def generate(
    request: Request, service: ServiceDep, caller: CallerDep, settings: SettingsDep
) -> GenerationResult:
    """Generate a model, textured unless `apply_texture` is false; wait for it."""
    generation = await read_generation_request(request, settings, _FORM)
    call = generate_model(generation, service, caller)
    job, _ = await while_connected(request, call)
    return GenerationResult(model_url=f"/download/model?job={job.uid}")


for _path, _request_body in (
    ("/generate_no_preview", _body("file", "image_base64", is_list=False)),
    ("/generate_multi_no_preview", _body("file_list", "image_list_base64", is_list=True)),
):
    router.add_api_route(
        _path,
        generate,
        methods=["POST"],
        summary="Generate a model, for StableProjectorz",
        responses=errors(400, 401, 409, 413, 415, 429, 500, 502, 503, 504, 507),
        openapi_extra=_request_body,
    )


@router.post("/interrupt", summary="Cancel the generation", responses=errors(401, 429, 503))
async def interrupt(service: ServiceDep, caller: CallerDep) -> InterruptReply:
    """Cancel the caller's newest job, if it is not finished."""
    view = await _current(service, caller)
    if view is None or not _is_busy(view):
        return InterruptReply(status="no_generation_in_progress")
    await service.delete(view.job.uid, caller)
    return InterruptReply(status="interrupt_requested")


@router.get("/info/supported_operations", summary="List the operations", responses=errors(401))
async def supported_operations() -> list[str]:
    """Return what StableProjectorz may ask for."""
    return ["make_meshes_and_tex"]


@router.get(
    "/download/model",
    response_class=Response,
    summary="Get the model of the generation",
    responses={
        200: {"description": "The GLB.", "content": {MEDIA_TYPES["glb"]: BINARY}},
        **errors(401, 404, 500, 503),
        **INVALID_REQUEST,
    },
)
async def download_model(
    request: Request,
    service: ServiceDep,
    caller: CallerDep,
    job: Annotated[str | None, Query(description="Uid of a job; omitted: the newest one.")] = None,
) -> Response:
    """Return the model of a job, textured if it has a texture."""
    view = await (_current(service, caller) if job is None else service.get_view(job, caller))
    if view is None or view.job.model is None:
        raise JobNotFoundError("there is no model yet")
    if request.method == "HEAD":
        return head_response(MEDIA_TYPES["glb"])
    response = model_response(view.job, await service.read_file(view.job.model), "glb")
    response.headers["Content-Disposition"] = 'attachment; filename="model.glb"'
    return response


async def _current(service: JobService, caller: Caller) -> JobView | None:
    views, _ = await service.list_jobs(caller, limit=1)
    return views[0] if views else None


def _is_busy(view: JobView | None) -> bool:
    return view is not None and not view.job.status.is_finished
