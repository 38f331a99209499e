"""What routes take from the application and from the request, for FastAPI's `Depends`.

The functions are coroutines because FastAPI would run plain functions in its thread pool.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request

from trellis2_server.api.links import LinkSigner
from trellis2_server.jobs.job import Caller
from trellis2_server.jobs.service import JobService
from trellis2_server.settings import Settings


async def service_of(request: Request) -> JobService:
    """Return the job service of the application."""
    return request.app.state.service


async def settings_of(request: Request) -> Settings:
    """Return the settings of the application."""
    return request.app.state.settings


async def caller_of(request: Request) -> Caller:
    """Return the client, as identified by `ApiKeyMiddleware`."""
    return Caller(request.state.owner, request.state.client)


async def links_of(request: Request) -> LinkSigner:
    """Return what makes links of the application."""
    return request.app.state.links


ServiceDep = Annotated[JobService, Depends(service_of)]
SettingsDep = Annotated[Settings, Depends(settings_of)]
CallerDep = Annotated[Caller, Depends(caller_of)]
LinksDep = Annotated[LinkSigner, Depends(links_of)]
#: Path parameter that identifies a job.
UidOrHash = Annotated[str, Path(description="An image hash or a uid.")]
