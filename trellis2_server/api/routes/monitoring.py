"""Routes for operators and load balancers: health, load and metrics.

Does not know: jobs, engines.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from trellis2_server.api.dependencies import ServiceDep
from trellis2_server.api.metrics import MEDIA_TYPE
from trellis2_server.api.responses import HealthReply, WorkerReply, health_reply
from trellis2_server.api.schemas import errors

router = APIRouter()


@router.get(
    "/healthcheck",
    response_model_exclude_none=True,
    summary="Get the health of the server",
    responses={503: {"model": HealthReply, "description": "Loading, shutting down, or failed."}},
)
async def healthcheck(request: Request, response: Response, service: ServiceDep) -> HealthReply:
    """Return 200 if the server can generate models, otherwise 503 with the cause.

    With API keys, the response has details only if the request has a valid key.
    """
    health = await service.health()
    if health.status != "ok":
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    return health_reply(health, is_trusted=request.state.is_trusted)


@router.get("/worker_status", summary="Get the load of the server", responses=errors(401))
async def worker_status(service: ServiceDep) -> WorkerReply:
    """Return the number of running and waiting jobs."""
    health = await service.health()
    return WorkerReply(queue_length=health.queue_length, loading=health.status == "loading")


@router.get(
    "/metrics",
    response_class=Response,
    summary="Get the metrics for Prometheus",
    responses={
        200: {"description": "Prometheus text format.", "content": {"text/plain": {}}},
        **errors(401),
    },
)
async def metrics(service: ServiceDep) -> Response:
    """Return metrics of requests, jobs, steps and memory, described in `docs/operations.md`."""
    return Response(await service.metrics(), media_type=MEDIA_TYPE)
