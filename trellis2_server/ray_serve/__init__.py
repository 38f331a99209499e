"""The same server over many GPUs and machines, on Ray Serve.

    serve run trellis2_server.ray_serve:build config=api_server_config_default.json engines=4

    clients ── Serve's proxies ── ingresses ── desk ──┬── engines   a stage at a time, each
                                                      ├── cutters
                                                      └── tasks     exports

The ingresses answer HTTP with the routes of `create_app`, the desk has the job table and the
line, and every box is a deployment of Serve's, which starts it again when it ends.

What this module does not know: jobs, HTTP, what a step does.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import ray
from pydantic import ValidationError
from ray import serve

from trellis2_server import pipeline
from trellis2_server.api.api_keys import with_all_keys
from trellis2_server.errors import ConfigError
from trellis2_server.ray_serve.executor import CUTTERS, ENGINES
from trellis2_server.ray_serve.replicas import JOBS, CutterReplica, EngineReplica
from trellis2_server.ray_serve.service import JobServiceReplica, RemoteJobService
from trellis2_server.ray_serve.settings import ClusterSettings
from trellis2_server.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ray.serve import Application
    from starlette.types import Message, Receive, Scope, Send

    from trellis2_server.inputs.images import Cutter
    from trellis2_server.pipeline import Engine
    from trellis2_server.ray_serve.replicas import ChooseEngine, MakeCutter

__all__ = ["ClusterSettings", "build", "build_app"]

INGRESSES: Final = "ingresses"
#: A call that waits for a job takes up no more than a future.
_MANY: Final = 100_000
#: Pictures that one cutter has in its hands: as one is cut out, the next is read.
_CUTTER_WIDTH: Final = 2
#: How often Serve tries an engine that cannot be loaded, before any other could.
_LOAD_TRIES: Final = 3
#: For how long a stage has to wait before an engine more is started for it, in seconds.
_UPSCALE_DELAY_S: Final = 10.0
#: How often a replica that is to end looks whether it may, in seconds.
_LOOK_S: Final = 0.5
#: What a replica is given to end, beyond the grace of its jobs, in seconds.
_MORE_GRACE_S: Final = 12.0


def build(args: Mapping[str, object]) -> Application:
    """The application that `serve run` and Serve's configuration files deploy.

    Args:
        args: as of `ClusterSettings`; numbers may be strings, as on a command line.

    Raises:
        ConfigError: the arguments, or the configuration file, cannot be used.
    """
    try:
        cluster = ClusterSettings.model_validate(args)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"])) or "arguments"
        raise ConfigError(f"{name}: {problem['msg']}") from error
    settings = load_settings(cluster.config) if cluster.config else Settings()
    return build_app(with_all_keys(settings, os.environ), cluster)


def build_app(
    settings: Settings,
    cluster: ClusterSettings,
    *,
    choose_engine: ChooseEngine | None = None,
    make_cutter: MakeCutter | None = None,
    engine_name: str | None = None,
) -> Application:
    """The same of settings that are at hand.

    Args:
        settings: the whole configuration.
        cluster: how much of the cluster is used.
        choose_engine: gives an engine in its process; None: as the settings say.
        make_cutter: gives what cuts out there; None: likewise.
        engine_name: of the engine that is given.
    """
    settings, cluster, notes = fitted(settings, cluster)
    engine = engine_name or settings.model.engine
    choose_engine = choose_engine or _choose_engine
    make_cutter = make_cutter or pipeline.make_cutter
    engines = _deployment(
        EngineReplica,
        ENGINES,
        max_ongoing_requests=1,
        max_constructor_retry_count=_LOAD_TRIES,
        graceful_shutdown_timeout_s=settings.server.shutdown_grace_seconds + _MORE_GRACE_S,
        ray_actor_options={
            "num_cpus": cluster.engine_cpus,
            "num_gpus": cluster.num_gpus,
            "resources": cluster.engine_resources,
        },
        **_scale(cluster),
    ).bind(settings, choose_engine, make_cutter)
    cutters = _deployment(
        CutterReplica,
        CUTTERS,
        num_replicas=cluster.cutters,
        max_ongoing_requests=_CUTTER_WIDTH,
        ray_actor_options={"num_cpus": 0},
    ).bind(settings, partial(_make_cutter, settings, make_cutter))
    service = _deployment(
        JobServiceReplica,
        JOBS,
        num_replicas=1,
        max_ongoing_requests=_MANY,
        graceful_shutdown_timeout_s=settings.server.shutdown_grace_seconds + _MORE_GRACE_S,
        ray_actor_options={"num_cpus": 0, "resources": cluster.desk_resources},
    ).bind(settings, cluster, engine, engines, cutters, notes)

    def front() -> Any:  # Serve takes a function here, and no partial one
        return _make_front(settings)

    ingress = serve.ingress(front)(Ingress)
    return _deployment(
        ingress,
        INGRESSES,
        num_replicas=cluster.ingresses,
        max_ongoing_requests=settings.server.max_connections,
        ray_actor_options={"num_cpus": 0, "resources": cluster.ingress_resources},
    ).bind(service)


class Ingress:
    """Answers HTTP.

    Args:
        desk: which it needs; it finds that by its name.
    """

    def __init__(self, service: Any) -> None:
        del service


def _make_front(settings: Settings) -> Any:
    # Only the ingresses have routes: every replica imports this module.
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    from trellis2_server.api.app import create_api

    service = RemoteJobService()
    front: Any = create_api(settings, service.open, service.note_request)
    named: Any = _Unnamed(front)
    return ProxyHeadersMiddleware(named, list(settings.server.trusted_proxies))


class _Unnamed:
    """Leaves a reply's request id to Serve's proxy, which sends the same one anyway."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                message["headers"] = [each for each in headers if each[0] != b"x-request-id"]
            await send(message)

        await self._app(scope, receive, without_id)


def _choose_engine(settings: Settings) -> Engine:
    return pipeline.choose_engine(settings)[0]


def _make_cutter(settings: Settings, make_cutter: MakeCutter) -> Cutter:
    """One that needs no engine: where that cuts out, this one is not asked."""
    model = settings.model.model_copy(update={"engine": "preview"})
    if model.background == "upstream":
        model = model.model_copy(update={"background": "none"})
    alone = settings.model_copy(update={"model": model})
    return make_cutter(_choose_engine(alone), alone)


def fitted(
    settings: Settings, cluster: ClusterSettings
) -> tuple[Settings, ClusterSettings, list[str]]:
    """Both without anything left open, for the cluster as it is now, and notes.

    Every engine of the cluster has to be the same one, or two jobs of one picture would
    differ: so `model.engine: auto` is decided once. Ray shows each engine its own GPU, as the
    first.
    """
    has = ray.cluster_resources()
    gpus = cluster.num_gpus
    if gpus is None:
        gpus = 1.0 if has.get("GPU", 0) >= 1 and settings.model.engine != "preview" else 0.0
    notes: list[str] = []
    model = settings.model
    if model.engine == "auto":
        engine = "trellis2" if gpus else "preview"
        model = model.model_copy(update={"engine": engine})
        if engine == "preview":
            notes.append("serving the embedded preview, not TRELLIS.2: the engines have no GPU")
    if gpus and model.device.startswith("cuda"):
        model = model.model_copy(update={"device": "cuda"})
    engines = cluster.engines
    if engines is None:
        machines = sum(1 for node in ray.nodes() if node["Alive"])
        engines = max(1, int(has.get("GPU", 0) // gpus) if gpus else machines)
    return (
        settings.model_copy(update={"model": model}),
        cluster.model_copy(update={"engines": engines, "num_gpus": gpus}),
        notes,
    )


def _scale(cluster: ClusterSettings) -> dict[str, Any]:
    if cluster.min_engines in {None, cluster.engines}:
        return {"num_replicas": cluster.engines}
    # The desk lets as many stages wait as there may be engines: each is asked for by one.
    return {
        "autoscaling_config": {
            "min_replicas": cluster.min_engines,
            "max_replicas": cluster.engines,
            "target_ongoing_requests": 1,
            "upscale_delay_s": _UPSCALE_DELAY_S,
            "look_back_period_s": _UPSCALE_DELAY_S,
        }
    }


def _deployment(what: Any, name: str, **options: Any) -> Any:
    deployment: Any = serve.deployment(what)
    # The routes' log has every request already, and the desk is asked all the time.
    quiet = {"enable_access_log": False}
    options = {"logging_config": quiet, "graceful_shutdown_wait_loop_s": _LOOK_S, **options}
    return deployment.options(name=name, **options)
