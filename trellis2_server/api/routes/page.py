"""The web page at `GET /`, its files, and the options of a generation request for its form.

The page is plain HTML, CSS and JavaScript, in the folder `page`. Its 3D viewer is Google's
`<model-viewer>`: the copy in `node_modules` after `npm install`, otherwise that of a CDN, see
`vendored_files`.

Does not know: jobs, threads, engines, what the page does.
"""

from __future__ import annotations

import functools
import html
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Request, Response
from fastapi import Path as PathField
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

from trellis2_server.api.outbound_fields import MAX_TEXT_LENGTH
from trellis2_server.api.schemas import field_schema
from trellis2_server.api.vendored_files import VendoredFile
from trellis2_server.digests import md5
from trellis2_server.parameters import maximum, read_delivery, read_options
from trellis2_server.purposes import PURPOSES
from trellis2_server.request_fields import FIELDS, STAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.settings import Settings

VIEWER: Final = VendoredFile(
    "@google/model-viewer",
    "4.4.0",
    "dist/model-viewer.min.js",
    "sha384-wjsPzEO+lXOf7d9csIDfAQpPt2OKuUU3m0K9qsdKIuzX4N8czSF6hdh23eAbZa3p",
)
#: Hash of the style sheet in the viewer's template, the only inline one.
VIEWER_STYLE: Final = "sha256-PXtZZkJMMyc18o/DN1ZEFOJ2qEGq95IQbVaJFMOXOb0="

_FOLDER: Final = Path(__file__).resolve().parents[2] / "page"
#: Not from `mimetypes`, whose result depends on the operating system.
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PERMANENT: Final = "public, max-age=31536000, immutable"

router = APIRouter()


class PurposeReply(BaseModel):
    """What a file is for."""

    label: str = Field(description="Name for people.")
    fields: dict[str, Any] = Field(description="Fields of an export that suit it.")


class OptionsReply(BaseModel):
    """Fields of a generation request, and this server's limits."""

    properties: dict[str, dict[str, Any]] = Field(
        description="JSON Schema of each field; `default` is this server's default."
    )
    purposes: dict[str, PurposeReply] = Field(
        description="What a file may be for, in the order of a form."
    )
    max_body_bytes: int = Field(description="Maximum size of a request body, bytes.")
    max_image_pixels: int = Field(description="Maximum size of a picture, width x height, pixels.")
    max_text_length: int | None = Field(
        description="Maximum length of `text` in place of a picture, characters; null: this server "
        "takes none."
    )


@router.get("/", include_in_schema=False)
async def index(request: Request) -> Response:
    """Return the page."""
    return _reply(request, "index.html")


@router.get("/page/options", summary="The fields of a generation request")
async def options(request: Request) -> OptionsReply:
    """Every field with its description and this server's bounds and default. Needs no key."""
    settings: Settings = request.app.state.settings
    defaults = _defaults(settings)
    properties = {
        field.name: {
            **field_schema(field, maximum(field, settings)),
            **({"default": defaults[field.name]} if field.name in defaults else {}),
        }
        for field in FIELDS
    }
    return OptionsReply(
        properties=properties,
        purposes={
            name: PurposeReply(label=purpose.label, fields=dict(purpose.fields))
            for name, purpose in PURPOSES.items()
        },
        max_body_bytes=settings.server.max_body_bytes,
        max_image_pixels=settings.server.max_image_pixels,
        max_text_length=MAX_TEXT_LENGTH if settings.text_to_image.url else None,
    )


@router.get("/page/{name}", include_in_schema=False)
async def file(request: Request, name: Annotated[str, PathField()]) -> Response:
    """Return a file of the page, or its viewer."""
    if name == VIEWER.name and VIEWER.is_installed():
        return FileResponse(
            VIEWER.file,
            media_type=_MEDIA_TYPES[".js"],
            headers={"Cache-Control": _PERMANENT, "X-Content-Type-Options": "nosniff"},
        )
    return _reply(request, name)


def _defaults(settings: Settings) -> Mapping[str, object]:
    """Return what a request without any field gets, by the fields' names.

    A field that is neither true nor false where it is omitted has none.
    """
    options = asdict(read_options({}, settings))
    del options["remove_background"]
    for stage in STAGES:
        options |= {f"{stage}_{name}": value for name, value in options.pop(stage).items()}
    return {**options, "seed": settings.generation.seed, "type": read_delivery({}).type}


def _reply(request: Request, name: str) -> Response:
    has_viewer = VIEWER.is_installed()
    try:
        content, tag = _contents(has_viewer=has_viewer)[name]
    except KeyError:
        raise HTTPException(404, f"no such file of the page: {name}") from None
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": _policy(has_viewer=has_viewer),
        "ETag": tag,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_MEDIA_TYPES[Path(name).suffix], headers=headers)


def _policy(*, has_viewer: bool) -> str:
    """Return the content security policy: only the page's own files and its viewer are allowed."""
    viewer = "" if has_viewer else f" {VIEWER.cdn_url}"
    return "; ".join(
        (
            "default-src 'none'",
            # When loaded, the viewer compiles its meshopt decoder, which is WebAssembly.
            f"script-src 'self' 'wasm-unsafe-eval'{viewer}",
            f"style-src 'self' '{VIEWER_STYLE}'",
            "img-src 'self' blob:",
            "connect-src 'self' blob:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


@functools.cache
def _contents(*, has_viewer: bool) -> dict[str, tuple[bytes, str]]:
    """Return the content and the entity tag of each file of the page, by name."""
    contents: dict[str, tuple[bytes, str]] = {}
    for path in sorted(_FOLDER.iterdir()):
        if path.suffix not in _MEDIA_TYPES:
            continue
        content = path.read_bytes()
        if path.name == "index.html":
            viewer = f"page/{VIEWER.name}" if has_viewer else VIEWER.cdn_url
            for mark, value in (("{viewer}", viewer), ("{integrity}", VIEWER.integrity)):
                content = content.replace(mark.encode(), html.escape(value).encode())
        tag = md5(content)
        contents[path.name] = content, f'"{tag}"'
    return contents
