"""The routes that clients of OpenAI-like servers use: `/v1/3d/generations` and `/v1/models`.

OpenAI has no route for 3D models. LocalAI, Lemonade and others agree on this one; the fields are
those of LocalAI's and Lemonade's clients, and the reply is OpenAI's of `/v1/images/generations`.

Does not know: how jobs are run, threads, engines.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from trellis2_server.api.dependencies import CallerDep, LinksDep, ServiceDep, SettingsDep
from trellis2_server.api.disconnects import while_connected
from trellis2_server.api.generation import RequestForm, generate_model, read_generation_request
from trellis2_server.api.model_responses import (
    MEDIA_TYPES,
    base64_response,
    model_response,
)
from trellis2_server.api.schemas import (
    EXAMPLE_PICTURE,
    SOURCES,
    openai_errors,
    request_body,
    schema,
)
from trellis2_server.errors import InputError, JobNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

ResponseFormat = Literal["url", "b64_json", "glb"]

#: LocalAI's field `quality` → `pipeline_type`; None: the server's default.
_QUALITIES: Final[Mapping[str, str | None]] = {
    "auto": None,
    "coarse": "512",
    "512": "512",
    "1024": "1024_cascade",
    "1536": "1536_cascade",
}
#: LocalAI's field `background` → `remove_background`; None: a cut-out is used as it is.
_BACKGROUNDS: Final[Mapping[str, bool | None]] = {
    "auto": None,
    "keep": False,
    "black": True,
    "white": True,
}
_RESPONSE_FORMATS: Final = ("url", "b64_json", "glb")
#: LocalAI's names of fields.
_NAMES: Final = {
    "step": "num_inference_steps",
    "texture_steps": "tex_sampling_steps",
    "cfg_scale": "guidance_scale",
    "prompt": "text",
}
#: Fields of other servers whose names mean something else here.
_OTHERS: Final = ("uv", "quality", "background", "params", "type", *_NAMES)

router = APIRouter()
#: Routes that clients of SGLang use, too.
models_router = APIRouter()


class GeneratedAsset(BaseModel):
    """A generated model; has one of the two."""

    url: str | None = Field(default=None, description="URL of the GLB.")
    b64_json: str | None = Field(default=None, description="The GLB, in base64.")


class GenerationReply(BaseModel):
    """A finished generation."""

    created: int = Field(description="When the job was accepted, Unix seconds.")
    id: str = Field(description="Uid of the job.")
    data: list[GeneratedAsset] = Field(description="The model, one element.")


class ModelReply(BaseModel):
    """A model that generates."""

    id: str = Field(description="Name for the field `model`.")
    object: Literal["model"] = "model"
    created: int = Field(description="When the server was started, Unix seconds.")
    owned_by: Literal["trellis2-server"] = "trellis2-server"
    labels: list[str] = Field(
        default=["3d"], description="What it does, as Lemonade's clients ask."
    )


class ModelsReply(BaseModel):
    """The models that generate."""

    object: Literal["list"] = "list"
    data: list[ModelReply]


def _translate(sent: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a request as this server calls them.

    Raises:
        InputError: a value is none of its field's; names the field.
    """
    if not isinstance(sent.get("model", ""), str):
        raise InputError("model: must be a string")
    if sent.get("type") not in {None, "glb"}:
        raise InputError(
            "type: only glb here; get other types from /jobs/{id}, with the id of the reply"
        )
    fields = {name: value for name, value in sent.items() if name not in _OTHERS}
    fields |= _params(sent)
    for name, own in _NAMES.items():
        if sent.get(name) is not None and fields.get(own) is None:
            fields[own] = sent[name]
    quality = _one_of(sent, "quality", _QUALITIES)
    if quality is not None and fields.get("resolution") is None:
        fields["pipeline_type"] = fields.get("pipeline_type") or quality
    background = _one_of(sent, "background", _BACKGROUNDS)
    if background is not None:
        fields.setdefault("remove_background", background)
    if fields.get("texture") is None:
        fields["texture"] = True
    return fields


def _params(sent: Mapping[str, object]) -> dict[str, object]:
    """Return LocalAI's `params`, numbers as strings, that are fields here."""
    params = sent.get("params")
    if params is None:
        return {}
    if isinstance(params, dict) and "texture_size" in params:
        return {"texture_size": params["texture_size"]}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(params, dict):
        return {}
    raise InputError("params: must be an object")


def _one_of(sent: Mapping[str, object], name: str, values: Mapping[str, Any]) -> Any:
    value = sent.get(name)
    if value is None:
        return None
    text = str(value).lower()
    if text not in values:
        raise InputError(f"{name}: must be one of {', '.join(values)}, not {text:.40}")
    return values[text]


def _response_format(sent: Mapping[str, object], accept: str) -> ResponseFormat:
    """Return how the request wants its model.

    Without `response_format`, that is the GLB where `Accept` says so or the request has Lemonade's
    field `bg_removal`, whose page sends no other sign; otherwise a URL, as LocalAI has it.

    Args:
        sent: fields of the request.
        accept: the request's header.

    Raises:
        InputError: `response_format` is none of the three.
    """
    value = sent.get("response_format")
    if value is None:
        is_glb = MEDIA_TYPES["glb"] in accept or "bg_removal" in sent
        return "glb" if is_glb else "url"
    if value not in _RESPONSE_FORMATS:
        raise InputError(
            f"response_format: must be one of {', '.join(_RESPONSE_FORMATS)}, not {value!s:.40}"
        )
    return value  # pyright: ignore[reportReturnType]


_FORM: Final = RequestForm({}, _translate)
_PROPERTIES: Final = {
    "model": {"type": "string", "description": "Any name: this server has one model."},
    "prompt": {"type": "string", "description": "As text."},
    "quality": {
        "type": "string",
        "enum": list(_QUALITIES),
        "description": "Alternative to resolution, of LocalAI.",
    },
    "background": {
        "type": "string",
        "enum": list(_BACKGROUNDS),
        "description": "Alternative to remove_background, of LocalAI.",
    },
    "response_format": {
        "type": "string",
        "enum": list(_RESPONSE_FORMATS),
        "default": "url",
        "description": "A URL, the GLB in base64, or the GLB itself.",
    },
}
_FIELDS: Final = schema(*SOURCES, "*")
_SCHEMA: Final = {
    **_FIELDS,
    "properties": {
        **{name: each for name, each in _FIELDS["properties"].items() if name not in _OTHERS},
        **_PROPERTIES,
    },
}


async def generations(
    request: Request,
    service: ServiceDep,
    caller: CallerDep,
    settings: SettingsDep,
    links: LinksDep,
) -> Response:
    """Generate a textured model, wait for it, and return it.

    Takes every field of `/generate` but `type`, and those of LocalAI's and Lemonade's clients.
    Other than there, the model is textured unless `texture` is false.
    """
    generation = await read_generation_request(request, settings, _FORM)
    fields = generation.fields
    wanted = _response_format(fields, request.headers.get("accept", ""))
    if generation.delivery.type != "glb":
        raise InputError(f"preset: {fields.get('preset')} is for another type than glb")
    job, model = await while_connected(request, generate_model(generation, service, caller))
    if wanted == "glb":
        return model_response(job, model, "glb")
    created = int(job.created_unix_s)
    if wanted == "b64_json":
        head = f'{{"created":{created},"id":{json.dumps(job.uid)},"data":[{{"b64_json":"'
        return base64_response(head.encode(), model, b'"}]}')
    file = "textured.glb" if generation.delivery.texture else "shape.glb"
    placement = {name: fields[name] for name in ("size_m", "origin") if fields.get(name)}
    query = f"?{urlencode(placement)}" if placement else ""
    url = f"{request.base_url}jobs/{job.uid}/{file}{query}"
    reply = {"created": created, "id": job.uid}
    return JSONResponse({**reply, "data": [{"url": links.link(url, job.uid, job.owner)}]})


router.add_api_route(
    "/v1/3d/generations",
    generations,
    methods=["POST"],
    response_model=GenerationReply,
    summary="Generate a model, as OpenAI-like servers do",
    responses={
        200: {
            "description": "The model, as `response_format` says.",
            "content": {MEDIA_TYPES["glb"]: {"schema": {"type": "string", "format": "binary"}}},
        },
        **openai_errors(400, 401, 409, 413, 415, 429, 500, 502, 503, 504, 507),
    },
    openapi_extra=request_body(_SCHEMA, {"model": "trellis2", "image": EXAMPLE_PICTURE}),
)
# LocalAI's clients send no version.
router.add_api_route(
    "/3d/generations", generations, methods=["POST"], include_in_schema=False, response_model=None
)


@models_router.get("/v1/models", summary="List the models", responses=openai_errors(401))
async def models(request: Request, service: ServiceDep) -> ModelsReply:
    """Return the one model of this server, with its engine's name."""
    return ModelsReply(data=[_model(request, (await service.health()).engine)])


@models_router.get("/v1/models/{model}", summary="Get a model", responses=openai_errors(401, 404))
async def model(
    request: Request,
    model: Annotated[str, Path(description="Name of the model.")],
    service: ServiceDep,
) -> ModelReply:
    """Return a model of `/v1/models`."""
    engine = (await service.health()).engine
    if model != engine:
        raise JobNotFoundError(f"model: there is only {engine}")
    return _model(request, engine)


def _model(request: Request, name: str) -> ModelReply:
    return ModelReply(id=name, created=request.app.state.started_unix_s)
