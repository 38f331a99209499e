"""`--check`: what would be served, and whether TRELLIS.2 could start, without loading it."""

from __future__ import annotations

import importlib.metadata
import platform
from contextlib import closing
from typing import TYPE_CHECKING, Final

from trellis2_server import __version__, logs
from trellis2_server.cli.access import access_warnings
from trellis2_server.cli.listening import address_text
from trellis2_server.errors import EngineError
from trellis2_server.settings import BUILT_IN

if TYPE_CHECKING:
    from pathlib import Path

    from trellis2_server.settings import ModelSettings, Settings

#: Time to import rembg and to read the model's file, seconds.
_INSPECTION_TIMEOUT_S: Final = 120.0
_PACKAGES: Final = ("fastapi", "uvicorn", "numpy", "numba", "pillow", "rembg", "onnxruntime")


def check(settings: Settings, config: Path | None) -> int:
    """Print the report; return 1 if TRELLIS.2 is configured and cannot start, otherwise 0.

    Args:
        settings: what would be served.
        config: file they come from; None: the built-in defaults.
    """
    from trellis2_server.pipeline import choose_engine, with_engine_defaults

    # The report has what would be logged.
    logs.configure(settings.server.model_copy(update={"log_level": "error"}))
    engine, warnings = choose_engine(settings)
    settings = with_engine_defaults(settings, engine.name)
    server = settings.server
    rows = [
        ("trellis2-server", __version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("configuration", str(config or BUILT_IN)),
        ("engine", f"{engine.name} (configured: {settings.model.engine})"),
        (
            "address",
            ", ".join(
                (
                    *(address_text(host, server.port) for host in server.host),
                    f"{len(server.api_keys)} API keys",
                )
            ),
        ),
        ("background", _background(settings.model)),
        ("pipeline type", settings.generation.pipeline_type),
        ("maximum faces", str(settings.export.glb_decimation_target)),
        ("texture size", f"{settings.export.glb_texture_size} px"),
        ("decoders", _decoders(settings)),
        ("results", settings.worker.result_dir or "in memory, lost at a restart"),
        ("other hosts", _other_hosts(settings)),
        *((name, _version(name)) for name in _PACKAGES),
        *(("warning", warning) for warning in (*warnings, *access_warnings(server))),
    ]
    for name, value in rows:
        print(f"{name:16} {value}")  # noqa: T201 - the answer to a command
    return 0 if settings.model.engine == "preview" else _check_trellis2(settings)


def _check_trellis2(settings: Settings) -> int:
    from trellis2_server.engines.trellis2 import inspect_trellis2

    print("\nTRELLIS.2, without loading it:")  # noqa: T201
    findings = inspect_trellis2(
        settings.model,
        pipeline_type=settings.generation.pipeline_type,
        exports=settings.export.backend == "upstream",
        ask_network=not settings.model.offline,
    )
    for finding in findings:
        print(f"  {finding.level:8} {finding.what:12} {finding.text}")  # noqa: T201
    errors = sum(finding.level == "error" for finding in findings)
    verdict = f"will not start: {errors} error(s) above" if errors else "can be started"
    print(f"  {'=':8} TRELLIS.2 {verdict}")  # noqa: T201
    return int(settings.model.engine == "trellis2" and errors > 0)


def _decoders(settings: Settings) -> str:
    """Return what confines the processes that decode uploads, on this machine."""
    from trellis2_server.decoders.confinement import PROPERTIES
    from trellis2_server.pipeline import make_decoders

    with closing(make_decoders(settings)) as decoders:
        held = decoders.confinement()
    lacking = [one for one in PROPERTIES if one not in held]
    return ", ".join(held) + (f"; not: {', '.join(lacking)}" if lacking else "")


def _background(settings: ModelSettings) -> str:
    """Return how backgrounds are removed, and whether the model for it is there."""
    from trellis2_server.inputs.background.fetcher import ModelFetcher

    if settings.background not in {"auto", "rembg"}:
        return settings.background
    name = f"{settings.background}, model {settings.background_model}"
    try:
        problem = ModelFetcher(_INSPECTION_TIMEOUT_S).inspect(settings.background_model)
    except EngineError as error:
        return f"{name}: {error}"
    if problem is None:
        return f"{name}, which is on this machine"
    if settings.offline:
        then = "model.offline forbids fetching it"
    elif settings.prefetches_background:
        then = "the server fetches it when it starts"
    else:
        then = "the first photo fetches it"
    return f"{name}, whose file is {problem.state}; {then}"


def _other_hosts(settings: Settings) -> str:
    """Return for what requests have this server call other hosts."""
    calls = {
        "image_url": bool(settings.server.image_hosts),
        "webhook": bool(settings.server.webhook_hosts),
        "text": settings.text_to_image.url is not None,
    }
    return ", ".join(name for name, is_called in calls.items() if is_called) or "none are called"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
