"""JSON Schemas of requests, and the error replies, for `/docs` and `/openapi.json`.

Does not know: routes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, Field

from trellis2_server.jobs.webhook import EVENTS
from trellis2_server.request_fields import (
    FIELDS,
    LEAST_LEVELS,
    MAX_PICTURES,
    MOST_LEVELS,
    SIDES,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trellis2_server.request_fields import RequestField


class ErrorReply(BaseModel):
    """Reply to a request that failed."""

    text: str = Field(description="Cause of the error, in one sentence that a client can act on.")
    error_code: int = Field(
        description="1 input or engine, 2 not ready in time, 3 unavailable, 4 API key, "
        "5 cancelled, 6 too large, 7 out of memory."
    )


class OpenAiError(BaseModel):
    """An error in OpenAI's form."""

    message: str = Field(description="Cause of the error, in one sentence.")
    type: str = Field(description="`invalid_request_error`, `rate_limit_error`, `server_error`.")
    param: str | None = Field(description="The field that is wrong; null: none by itself.")
    code: str | None = Field(description="Such as `invalid_api_key`, `rate_limit_exceeded`.")


class OpenAiErrorReply(BaseModel):
    """Reply of a route under `/v1` to a request that failed."""

    error: OpenAiError


#: A disc, 32 x 32 pixels: the example on `/docs` works as it is.
EXAMPLE_PICTURE: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAgMAAAAOFJJnAAAADFBMVEXWYCgAAAAAAAAAAACKNnKGAAAABHRSTlP/"
    "AAAAbZZgawAAAGhJREFUeNqd0LENwzAMRNEnQu41kkZwkyndeASNpN4G5EKFFaQLm/9xIEjg0secsMhxTLk4CU4u"
    "woAm3NCFDrfQYCx3xmR7k3uyf/36Q/JkeZM0WZflCkkokIUMRUhQBTsbwcZO+mnjAZ99Ej90WnqzAAAAAElFTkSu"
    "QmCC"
)


_UPLOADS_AND_NAMES: Final[dict[str, dict[str, Any]]] = {
    "image": {
        "type": "string",
        "description": "Picture, base64; may have a data: prefix. An http(s) URL is one of "
        "image_url.",
    },
    "images": {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "maxItems": MAX_PICTURES,
        "description": "Pictures of one object, base64, in place of image; the first one shows its "
        "front. See multi_image.",
    },
    "image_urls": {
        "type": "array",
        "items": {"type": "string", "pattern": "^(data:|[Hh][Tt][Tt][Pp][Ss]?://)"},
        "minItems": 1,
        "maxItems": MAX_PICTURES,
        "description": "The same as URLs: data: URIs, or http(s) as image_url.",
    },
    **{
        f"image_{side}": {
            "type": "string",
            "description": f"Picture of the object's {side}, base64"
            + ("; the same as image." if side == "front" else ", beside image_front or image.")
            + f" Also accepted as mv_image_{side}.",
        }
        for side in SIDES
    },
    "mesh": {
        "type": "string",
        "description": "Mesh to texture after the picture, instead of generating a shape: a GLB, "
        "OBJ, PLY or STL file, base64.",
    },
    "image_url": {
        "type": "string",
        "description": "URL of the picture, in place of image: a data: URI, or http(s) on a host "
        "that this server's operator lists in server.image_hosts.",
    },
    "text": {
        "type": "string",
        "description": "What the model is to be, in place of a picture, which is then made by the "
        "server of text_to_image.url; refused without one. Ignored next to a picture.",
    },
    "webhook": {
        "type": "string",
        "description": "URL that gets a signed POST of the job's JSON when it ends, on a host that "
        "this server's operator lists in server.webhook_hosts.",
    },
    "webhook_events": {
        "type": "array",
        "items": {"type": "string", "enum": list(EVENTS)},
        "description": "Events that the webhook is told of. Omitted: completed and failed.",
    },
    "image_hash": {"type": "string", "description": "X-Image-Hash of a job."},
    "uid": {"type": "string", "description": "X-Job-Id of a job."},
}


#: Fields with one picture or several, of which a request needs one: the sides need the front.
_FRONTS: Final = ("image", "images", "image_urls", "image_front", "image_url", "text")
#: Those with pictures themselves.
_FILES: Final = ("image", "images", "image_urls", *(f"image_{side}" for side in SIDES))
#: What a generation request may have besides parameters.
SOURCES: Final = (
    *_FRONTS,
    *(f"image_{side}" for side in SIDES if side != "front"),
    "mesh",
    "webhook",
    "webhook_events",
)


def field_schema(field: RequestField, maximum: int | None = None) -> dict[str, Any]:
    """Return the JSON Schema of a field's well-formed value; what is accepted is wider.

    Args:
        field: the field.
        maximum: greatest value on a server; None: that of the field.
    """
    if field.kind == "interval":
        number = {"type": "number", "minimum": 0, "maximum": 1}
        known: dict[str, Any] = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
    elif field.kind == "integers":
        low, high = map(int, field.bounds or (0, 0))
        items = {"type": "integer", "minimum": low, "maximum": high}
        known = {"type": "array", "items": items}
        known |= {"minItems": LEAST_LEVELS, "maxItems": MOST_LEVELS}
    elif field.is_nullable:
        known = {"type": [field.kind, "null"], "enum": [*field.choices, None]}
    elif field.choices:
        choices = [each for each in field.choices if maximum is None or int(each) <= maximum]
        known = {"type": field.kind, "enum": choices}
    elif field.word:
        low, high = field.bounds or (0, 0)
        # Bounds are about numbers only, a pattern is about texts only.
        known = {"type": [field.kind, "string"], "minimum": low, "maximum": high}
        known |= {"pattern": f"^{field.word}$"}
    elif field.bounds:
        low, high = map(float if field.kind == "number" else int, field.bounds)
        known = {"type": field.kind, "minimum": low, "maximum": maximum or high}
    else:
        known = {"type": field.kind}
    return {**known, "description": field.description}


def schema(
    *names: str, required: Sequence[str] = (), needs_picture: bool = False
) -> dict[str, Any]:
    """Return the JSON Schema of a request's body.

    Args:
        names: uploads and names of jobs; `*`: all fields of a generation request.
        required: those of them that must be there.
        needs_picture: whether there must be a picture, several, or a text.
    """
    properties: dict[str, Any] = {}
    for name in names:
        if name == "*":
            properties |= {field.name: field_schema(field) for field in FIELDS}
        else:
            properties[name] = _UPLOADS_AND_NAMES[name]
    known: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        known["required"] = list(required)
    if needs_picture:
        known["anyOf"] = [{"required": [name]} for name in _FRONTS]
    return known


#: Body of an export call.
EXPORTS: Final = {
    "type": "object",
    "properties": {
        field.name: field_schema(field)
        for field in FIELDS
        if field.group in {"export", "file", "delivery"}
    }
    | {
        "texture": {
            "type": "boolean",
            "description": "Whether the model is textured. Omitted: if the job has a texture.",
        }
    },
}


#: Query parameters of a file: how the model lies in it.
FILE_PARAMETERS: Final = [
    {
        "name": field.name,
        "in": "query",
        "required": False,
        "description": field.description,
        "schema": field_schema(field),
    }
    for field in FIELDS
    if field.group == "file"
]

#: What OpenAPI cannot say of a body.
_BODY: Final = (
    "The first bytes decide where the content type is missing, unknown or not so. Fields may also "
    "be in the query, beside any body. `Content-Encoding` may be `gzip` or `deflate`."
)
URLENCODED: Final = "application/x-www-form-urlencoded"


def export_body(example: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI request body of `EXPORTS`, which is optional."""
    content = {
        "application/json": {"schema": EXPORTS, "example": example},
        "multipart/form-data": {"schema": EXPORTS},
        URLENCODED: {"schema": EXPORTS},
    }
    return {"requestBody": {"required": False, "description": _BODY, "content": content}}


def request_body(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI request body of that schema: JSON, a form, or the picture itself."""
    properties: dict[str, Any] = {**schema["properties"]}
    for name in (*_FILES, "mesh"):
        if name in properties:
            known: dict[str, Any] = {"type": "string", "format": "binary"}
            if properties[name]["type"] == "array":
                known = {"type": "array", "items": known}
            properties[name] = {**known, "description": properties[name]["description"]}
    form = {**schema, "properties": properties}
    picture = {"schema": {"type": "string", "format": "binary"}}
    return {
        "requestBody": {
            "required": True,
            "description": _BODY,
            "content": {
                "application/json": {"schema": schema, "example": example},
                "multipart/form-data": {"schema": form},
                URLENCODED: {"schema": schema},
                "image/png": picture,
                "image/jpeg": picture,
                "image/webp": picture,
                "application/octet-stream": picture,
            },
        }
    }


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of these error replies."""
    meanings = {
        400: "Missing or invalid input.",
        401: "API keys are configured, and the request has none or a wrong one.",
        404: "No such job.",
        408: "Not ready in time; the job continues.",
        409: "The job was cancelled, or has not made the model yet.",
        413: "Body, picture or mesh too large.",
        415: "Content-Encoding other than gzip and deflate.",
        429: "Too many requests from this client: see Retry-After.",
        500: "The engine failed.",
        502: "The text-to-image server failed.",
        503: "Loading, shutting down or queue full: see Retry-After.",
        504: "The text-to-image server did not reply in time.",
        507: "Out of device memory, or of space for temporary files.",
    }
    return {status: {"model": ErrorReply, "description": meanings[status]} for status in statuses}


def openai_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of these error replies, and of others, under `/v1`."""
    named = {
        status: {**entry, "model": OpenAiErrorReply} for status, entry in errors(*statuses).items()
    }
    return {**named, "4XX": {"model": OpenAiErrorReply, "description": "Invalid request."}}
