"""The API's interactive reference at `GET /docs`: Swagger UI, in one version, under a policy.

FastAPI's own page loads whatever version a CDN has at the moment, without a hash, into the origin
of the web page, where that code could use the API key that the page stores.

Does not know: what the API does.
"""

from __future__ import annotations

import base64
import hashlib
import html
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

from trellis2_server.api.vendored_files import VendoredFile

#: Version of the npm package in `package.json`.
SWAGGER_VERSION: Final = "5.35.0"
SCRIPT: Final = VendoredFile(
    "swagger-ui-dist",
    SWAGGER_VERSION,
    "swagger-ui-bundle.js",
    "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9",
)
STYLE: Final = VendoredFile(
    "swagger-ui-dist",
    SWAGGER_VERSION,
    "swagger-ui.css",
    "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I",
)
#: Both are served from here where they are installed; no key is needed, as for the page's files.
_MEDIA_TYPES: Final = {
    SCRIPT: "text/javascript; charset=utf-8",
    STYLE: "text/css; charset=utf-8",
}
_PERMANENT: Final = "public, max-age=31536000, immutable"
_START: Final = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#reference", deepLinking: true});'
_PAGE: Final = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <title>{title}: API</title>
    <link rel="icon" href="page/icon.svg" type="image/svg+xml" />
    <link rel="stylesheet" href="{style}" integrity="{style_hash}" crossorigin="anonymous" />
  </head>
  <body>
    <div id="reference"></div>
    <script src="{script}" integrity="{script_hash}" crossorigin="anonymous"></script>
    <script>{start}</script>
  </body>
</html>
"""

router = APIRouter()


@router.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
async def documentation(request: Request) -> Response:
    """Return the page."""
    content = _PAGE.format(
        title=html.escape(request.app.title),
        style=html.escape(_source(STYLE)),
        style_hash=STYLE.integrity,
        script=html.escape(_source(SCRIPT)),
        script_hash=SCRIPT.integrity,
        start=_START,
    )
    headers = {"Cache-Control": "no-cache", "Content-Security-Policy": _policy()}
    return Response(content, media_type="text/html; charset=utf-8", headers=headers)


async def file(request: Request) -> Response:
    """Return a file of Swagger UI, if it is installed."""
    name = request.url.path.rpartition("/")[2]
    vendored = next(each for each in _MEDIA_TYPES if each.name == name)
    if not vendored.is_installed():
        raise HTTPException(404, f"not installed here: {name}")
    headers = {"Cache-Control": _PERMANENT}
    return FileResponse(vendored.file, media_type=_MEDIA_TYPES[vendored], headers=headers)


for _each in _MEDIA_TYPES:
    router.add_api_route(
        f"/page/{_each.name}", file, methods=["GET", "HEAD"], include_in_schema=False
    )


def _source(vendored: VendoredFile) -> str:
    """Return the address for the page, which may be served under a prefix."""
    return f"page/{vendored.name}" if vendored.is_installed() else vendored.cdn_url


def _policy() -> str:
    """Return the content security policy: only Swagger UI, this API, and no other page."""
    allowed = {each: "'self'" if each.is_installed() else each.cdn_url for each in (SCRIPT, STYLE)}
    start = base64.b64encode(hashlib.sha256(_START.encode()).digest()).decode()
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {allowed[SCRIPT]} 'sha256-{start}'",
            # Swagger UI styles some elements by themselves. Styles run no code.
            f"style-src {allowed[STYLE]} 'unsafe-inline'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
