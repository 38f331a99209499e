"""What `/docs` says of requests and of replies that are no success.

What this module does not know: routes.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, Field

from trellis2_server.parameters import EXPORT_FIELDS, FIELDS


class ErrorReply(BaseModel):
    """Every reply that is no success."""

    text: str = Field(description="The cause, in one sentence that a client can act on.")
    error_code: int = Field(
        description="1 input or engine, 2 not ready in time, 3 not now, 4 key, 5 cancelled, "
        "6 too large, 7 out of memory."
    )


#: A disc, 32 x 32 pixels, so that the example in the API's pages can be tried as it stands.
EXAMPLE_PICTURE: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAgMAAAAOFJJnAAAADFBMVEXWYCgAAAAAAAAAAACKNnKGAAAABHRSTlP/"
    "AAAAbZZgawAAAGhJREFUeNqd0LENwzAMRNEnQu41kkZwkyndeASNpN4G5EKFFaQLm/9xIEjg0secsMhxTLk4CU4u"
    "woAm3NCFDrfQYCx3xmR7k3uyf/36Q/JkeZM0WZflCkkokIUMRUhQBTsbwcZO+mnjAZ99Ej90WnqzAAAAAElFTkSu"
    "QmCC"
)


def schema(*names: str, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """JSON Schema of an object with these fields; `*` stands for a generation's."""
    known: dict[str, Any] = {
        "image": {
            "type": "string",
            "description": "The picture, base64; a data: prefix is welcome.",
        },
        "mesh": {
            "type": "string",
            "description": "A GLB, OBJ, PLY or STL file, base64: it is textured after the "
            "picture instead of a shape being made.",
        },
        "text": {"type": "string", "description": "Ignored beside an image; not enough alone."},
        "image_hash": {"type": "string", "description": "X-Image-Hash of a job."},
        "uid": {"type": "string", "description": "X-Job-Id of a job."},
    }
    properties: dict[str, Any] = {}
    for name in names:
        if name == "*":
            properties |= {field.name: dict(field.schema) for field in FIELDS}
        else:
            properties[name] = known[name]
    return {"type": "object", "properties": properties, "required": list(required)}


#: What an export can be asked for.
EXPORTS: Final = {
    "type": "object",
    "properties": {
        field.name: dict(field.schema)
        for field in FIELDS
        if field.name in {*EXPORT_FIELDS, "type", "texture"}
    }
    | {
        "texture": {
            "type": "boolean",
            "description": "Whether the model is textured; where there is a texture, it is.",
        }
    },
}


def export_body(example: dict[str, Any]) -> dict[str, Any]:
    """A request body of `EXPORTS`, which may be left out."""
    content = {"schema": EXPORTS, "example": example}
    return {"requestBody": {"required": False, "content": {"application/json": content}}}


def request_body(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    """A request body of that schema, as JSON, as a form, or as a picture."""
    form = {
        **schema,
        "properties": {
            **schema["properties"],
            "image": {"type": "string", "format": "binary", "description": "The picture."},
            "mesh": {"type": "string", "format": "binary", "description": "The mesh."},
        },
    }
    picture = {"schema": {"type": "string", "format": "binary"}}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema, "example": example},
                "multipart/form-data": {"schema": form},
                "image/png": picture,
                "image/jpeg": picture,
                "image/webp": picture,
            },
        }
    }


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The replies with these statuses."""
    meanings = {
        400: "Missing or invalid input.",
        401: "API keys are configured, and none or a wrong one was sent.",
        404: "No such job.",
        408: "Not ready in time; the job goes on.",
        409: "The job was cancelled.",
        413: "Over a limit.",
        429: "Too much from this client: see Retry-After.",
        500: "The engine failed.",
        503: "Loading, leaving or full: see Retry-After.",
        507: "Out of device memory.",
    }
    return {status: {"model": ErrorReply, "description": meanings[status]} for status in statuses}
