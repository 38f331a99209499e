"""`build`: the Serve application, made of its deployments.

Does not know: jobs, HTTP, what a step does.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import ray
from pydantic import ValidationError

from trellis2_server import pipeline
from trellis2_server.api.api_keys import with_all_keys
from trellis2_server.api.links import with_link_secret
from trellis2_server.errors import ConfigError
from trellis2_server.ray_serve.deployments import (
    CUTTERS,
    ENGINES,
    INGRESSES,
    JOBS,
    MAX_MESSAGE_BYTES,
    MESSAGE_VARIABLE,
    make_deployment,
)
from trellis2_server.ray_serve.ingress import make_ingress
from trellis2_server.ray_serve.jobs_process import JobsProcess
from trellis2_server.ray_serve.replicas import CutterReplica, EngineReplica
from trellis2_server.ray_serve.settings import ClusterSettings
from trellis2_server.settings import Settings, load_settings, with_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ray.serve import Application

    from trellis2_server.inputs.images import Cutter
    from trellis2_server.pipeline import Engine
    from trellis2_server.ray_serve.replicas import ChooseEngine, MakeCutter

#: Concurrent calls of the jobs process; a call that waits for a job costs no more than a future.
_MAX_JOBS_CALLS: Final = 100_000
#: Concurrent pictures of a cutter: the next one is decoded while one is cut out.
_MAX_CUTTER_CALLS: Final = 2
#: How often Serve tries to start an engine while no other one has started.
_LOAD_ATTEMPTS: Final = 3
#: How long a stage has to wait until another engine is started for it, seconds.
_UPSCALE_DELAY_S: Final = 10.0
#: Variables with which Serve's proxies call ingresses over gRPC. As Ray tasks, the calls of a proxy
#: that is cut off stop an ingress for all its clients (`WaitAllObjectsReported`).
_GRPC_VARIABLES: Final = ("RAY_SERVE_PROXY_USE_GRPC", "RAY_SERVE_USE_GRPC_BY_DEFAULT")
#: How long a replica may take to shut down, in addition to the grace of its jobs, seconds.
_ADDITIONAL_GRACE_S: Final = 12.0


def build(args: Mapping[str, object]) -> Application:
    """Return the application that `serve run` and Serve's configuration files deploy.

    Args:
        args: fields of `ClusterSettings`; numbers may be strings, as on a command line.

    Raises:
        ConfigError: the arguments or the configuration file are invalid.
    """
    try:
        cluster = ClusterSettings.model_validate(args)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"])) or "arguments"
        raise ConfigError(f"{name}: {problem['msg']}") from error
    settings = load_settings(cluster.config) if cluster.config else Settings()
    return build_app(with_secrets(with_all_keys(settings, os.environ), os.environ), cluster)


def build_app(
    settings: Settings,
    cluster: ClusterSettings,
    *,
    choose_engine: ChooseEngine | None = None,
    make_cutter: MakeCutter | None = None,
    engine_name: str | None = None,
) -> Application:
    """Return the application for settings that are already loaded.

    Args:
        settings: the whole configuration.
        cluster: how the cluster is used.
        choose_engine: returns the engine, called in an engine's process; None: by the settings.
        make_cutter: returns the cutter, called in the process that needs it; None: by the settings.
        engine_name: name of the engine that `choose_engine` returns.
    """
    settings, cluster, notes = resolve(with_link_secret(settings), cluster)
    engine = engine_name or settings.model.engine
    choose_engine = choose_engine or _choose_engine
    make_cutter = make_cutter or pipeline.make_cutter
    shutdown_timeout_s = settings.server.shutdown_grace_seconds + _ADDITIONAL_GRACE_S
    engines = make_deployment(
        EngineReplica,
        ENGINES,
        max_ongoing_requests=1,
        max_constructor_retry_count=_LOAD_ATTEMPTS,
        graceful_shutdown_timeout_s=shutdown_timeout_s,
        ray_actor_options={
            "num_cpus": cluster.engine_cpus,
            "num_gpus": cluster.num_gpus,
            "resources": cluster.engine_resources,
        },
        **_replica_options(cluster),
    ).bind(settings, choose_engine, make_cutter)
    cutters = make_deployment(
        CutterReplica,
        CUTTERS,
        num_replicas=cluster.cutters,
        max_ongoing_requests=_MAX_CUTTER_CALLS,
        ray_actor_options={"num_cpus": 0},
    ).bind(settings, partial(_make_cutter, settings, make_cutter))
    jobs = make_deployment(
        JobsProcess,
        JOBS,
        num_replicas=1,
        max_ongoing_requests=_MAX_JOBS_CALLS,
        graceful_shutdown_timeout_s=shutdown_timeout_s,
        ray_actor_options={"num_cpus": 0, "resources": cluster.jobs_resources},
    ).bind(settings, cluster, engine, engines, cutters, notes)
    return make_deployment(
        make_ingress(settings),
        INGRESSES,
        num_replicas=cluster.ingresses,
        max_ongoing_requests=settings.server.max_connections,
        ray_actor_options={"num_cpus": 0, "resources": cluster.ingress_resources},
    ).bind(jobs)


def resolve(
    settings: Settings, cluster: ClusterSettings
) -> tuple[Settings, ClusterSettings, list[str]]:
    """Return both with all automatic values decided for the present cluster, and notes.

    `model.engine: auto` is decided once: with different engines, two jobs with the same picture
    would have different results. Ray shows each engine its own GPU as the first one.
    """
    resources = ray.cluster_resources()
    gpus = cluster.num_gpus
    if gpus is None:
        gpus = 1.0 if resources.get("GPU", 0) >= 1 and settings.model.engine != "preview" else 0.0
    notes: list[str] = []
    model = settings.model
    if model.engine == "auto":
        engine = "trellis2" if gpus else "preview"
        model = model.model_copy(update={"engine": engine})
        if engine == "preview":
            notes.append("serving the preview engine, not TRELLIS.2: the engines have no GPU")
    if gpus and model.device.startswith("cuda"):
        model = model.model_copy(update={"device": "cuda"})
    if note := _proxy_note(cluster.ingresses):
        notes.append(note)
    engines = cluster.engines
    if engines is None:
        machines = sum(1 for node in ray.nodes() if node["Alive"])
        engines = max(1, int(resources.get("GPU", 0) // gpus) if gpus else machines)
    settings = settings.model_copy(update={"model": model})
    return (
        pipeline.with_engine_defaults(settings, model.engine),
        cluster.model_copy(update={"engines": engines, "num_gpus": gpus}),
        notes,
    )


def _proxy_note(ingresses: int) -> str | None:
    """Return a note on how Serve's proxies call, which have the variables of this machine."""
    is_large = os.environ.get(MESSAGE_VARIABLE) == str(MAX_MESSAGE_BYTES)
    if any(os.environ.get(name) == "1" for name in _GRPC_VARIABLES):
        missing = f"set {MESSAGE_VARIABLE}={MAX_MESSAGE_BYTES} where Ray is started: with "
        reason = f"{_GRPC_VARIABLES[0]} alone, Serve's proxies fail to send files above 4 MB"
        return None if is_large else missing + reason
    if ingresses == 1:
        return None
    return (
        f"several ingresses: set {_GRPC_VARIABLES[0]}=1 and {MESSAGE_VARIABLE}={MAX_MESSAGE_BYTES} "
        "where Ray is started, or an ingress may stop answering for minutes when the machine of a "
        "proxy is cut off"
    )


def _choose_engine(settings: Settings) -> Engine:
    return pipeline.choose_engine(settings)[0]


def _make_cutter(settings: Settings, make_cutter: MakeCutter) -> Cutter:
    """Return a cutter that needs no engine; it is unused where the engine cuts pictures out."""
    model = settings.model.model_copy(update={"engine": "preview"})
    if model.background == "upstream":
        model = model.model_copy(update={"background": "none"})
    settings = settings.model_copy(update={"model": model})
    return make_cutter(_choose_engine(settings), settings)


def _replica_options(cluster: ClusterSettings) -> dict[str, Any]:
    if cluster.min_engines in {None, cluster.engines}:
        return {"num_replicas": cluster.engines}
    # The jobs process starts as many stages as there may be engines; each waiting stage is one
    # ongoing request.
    return {
        "autoscaling_config": {
            "min_replicas": cluster.min_engines,
            "max_replicas": cluster.engines,
            "target_ongoing_requests": 1,
            "upscale_delay_s": _UPSCALE_DELAY_S,
            "look_back_period_s": _UPSCALE_DELAY_S,
        }
    }
