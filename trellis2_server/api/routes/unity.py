"""The routes of the Unity client of TRELLIS.2 Unity Studio: submit a job, and poll its status.

Does not know: how jobs are run, threads, engines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field

from trellis2_server.api.dependencies import CallerDep, LinksDep, ServiceDep, SettingsDep
from trellis2_server.api.generation import RequestForm, read_generation_request, submit
from trellis2_server.api.responses import INVALID_REQUEST, is_waiting
from trellis2_server.api.schemas import errors
from trellis2_server.errors import InputError
from trellis2_server.jobs.job import INPUT_FILE, TEXTURED_FILE, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.jobs.job import Job

#: Before the uid in a job's id: `/status/{uid}` itself has Hunyuan3D's form.
ID_PREFIX: Final = "job-"
#: Its field `quality` → fields here that the request does not have: what its own server uses.
QUALITIES: Final[Mapping[str, Mapping[str, object]]] = {
    "superfast": {
        "pipeline_type": "512",
        "num_inference_steps": 4,
        "tex_sampling_steps": 4,
        "decimation_target": 30_000,
        "texture_size": 512,
    },
    "fast": {"pipeline_type": "512", "decimation_target": 50_000, "texture_size": 1024},
    "balanced": {
        "pipeline_type": "1024_cascade",
        "decimation_target": 100_000,
        "texture_size": 2048,
    },
    "high": {"pipeline_type": "1536_cascade", "decimation_target": 500_000, "texture_size": 4096},
}

router = APIRouter()


class SubmittedReply(BaseModel):
    """A job that was submitted."""

    job_id: str = Field(description="Id for `/status/{job_id}`.")
    status: Literal["queued"] = "queued"


class ResultReply(BaseModel):
    """Files of a job, relative to the server's root, without a slash."""

    glb: str
    image: str


State = Literal["queued", "running", "done", "failed"]


class UnityStatusReply(BaseModel):
    """The status of a job."""

    job_id: str
    type: Literal["image"] = "image"
    status: State
    stage: str = ""
    stage_description: str
    error: str | None = None
    result: ResultReply | None = Field(default=None, description="Absent: not done.")
    timings: dict[str, float]


def _translate(sent: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a request as this server calls them.

    Raises:
        InputError: `quality` is none of the known ones.
    """
    quality = str(sent.get("quality") or "balanced").lower()
    if quality not in QUALITIES:
        raise InputError(f"quality: must be one of {', '.join(QUALITIES)}, not {quality:.40}")
    fields = {**sent, "texture": True, "type": "glb"}
    if fields.get("prompt") is not None:
        fields.setdefault("text", fields["prompt"])
    return {**QUALITIES[quality], **fields}


_FORM: Final = RequestForm({"file": "image"}, _translate)
_QUALITY: Final = {"type": "string", "enum": list(QUALITIES), "default": "balanced"}
_QUERY: Final[list[dict[str, Any]]] = [
    {"name": "quality", "in": "query", "required": False, "schema": _QUALITY},
    {"name": "seed", "in": "query", "required": False, "schema": {"type": "integer"}},
]
_FILE: Final = {"type": "string", "format": "binary", "description": "Picture."}
_IMAGE_BODY: Final[dict[str, Any]] = {
    "parameters": _QUERY,
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"file": _FILE}, "required": ["file"]}
            }
        },
    },
}
_TEXT_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "prompt": {"type": "string"},
                        "quality": _QUALITY,
                        "seed": {"type": "integer"},
                    },
                    "required": ["prompt"],
                }
            }
        },
    }
}


async def submit_job(
    request: Request, service: ServiceDep, caller: CallerDep, settings: SettingsDep
) -> SubmittedReply:
    """Return the id of the job at once."""
    generation = await read_generation_request(request, settings, _FORM)
    job = await submit(generation, service, caller, texture=True)
    return SubmittedReply(job_id=f"{ID_PREFIX}{job.uid}")


for _path, _extra in (("/submit/image", _IMAGE_BODY), ("/submit/text", _TEXT_BODY)):
    router.add_api_route(
        _path,
        submit_job,
        methods=["POST"],
        summary="Submit a job, for Unity",
        responses=errors(400, 401, 413, 415, 429, 503),
        openapi_extra=_extra,
    )


@router.get(
    f"/status/{ID_PREFIX}{{uid}}",
    response_model_exclude_none=True,
    summary="Get the status of a job, for Unity",
    responses={**errors(401, 404), **INVALID_REQUEST},
)
async def status(
    uid: Annotated[str, Path(description="A uid.")],
    service: ServiceDep,
    caller: CallerDep,
    links: LinksDep,
) -> UnityStatusReply:
    """Return the status of a job without waiting."""
    view = await service.get_view(uid, caller)
    job = view.job
    stage = job.progress.stage if job.progress else ""
    state = _state(job)
    folder = f"jobs/{job.uid}"
    files = [
        links.link(f"{folder}/{name}", job.uid, job.owner) for name in (TEXTURED_FILE, INPUT_FILE)
    ]
    return UnityStatusReply(
        job_id=f"{ID_PREFIX}{uid}",
        status=state,
        stage=stage,
        stage_description=stage or state,
        error=str(job.error) if job.error else None,
        result=ResultReply(glb=files[0], image=files[1]) if state == "done" else None,
        timings=dict(job.timings),
    )


def _state(job: Job) -> State:
    if job.status is Status.COMPLETED:
        return "done"
    if job.status.is_finished:
        return "failed"
    return "queued" if is_waiting(job) else "running"
