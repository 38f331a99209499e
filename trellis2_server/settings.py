"""`Settings`: the operator's configuration, with bounds, units and defaults.

It is read once, by the entry file, and passed down.

What this module does not know: HTTP, what a request may set, which packages are installed.
"""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path  # noqa: TC003 - pydantic reads the annotation
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from trellis2_server.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


PipelineType = Literal["512", "1024", "1024_cascade", "1536_cascade"]


AlphaMode = Literal["auto", "OPAQUE", "MASK", "BLEND"]


TextureFormat = Literal["auto", "webp", "png", "jpeg"]


Compression = Literal["meshopt", "draco"]


MAX_SEED: Final = 2**32 - 1


RANDOM_SEED: Final = -1


FACE_BOUNDS: Final = (1_000, 16_777_216)


TOKEN_BOUNDS: Final = (4_096, 262_144)


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False
    )


class ServerSettings(_Section):
    """Who is served, and within which limits."""

    host: str = Field(default="0.0.0.0", min_length=1, description="Address to listen on.")  # noqa: S104
    port: int = Field(default=8082, ge=0, le=65_535, description="TCP port; 0 takes a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="What is logged, to standard error."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="One line a record, as text or JSON."
    )
    api_keys: tuple[SecretStr, ...] = Field(
        default=(), description="Keys of which a request must carry one; none: anybody is served."
    )
    api_keys_file: Path | None = Field(
        default=None,
        strict=False,
        description="A file of further keys, one a line, `#` before a comment. The environment "
        "variable `TRELLIS2_SERVER_API_KEYS` holds keys too, with commas between them.",
    )
    cors_origins: tuple[str, ...] | None = Field(
        default=None,
        description="Web origins whose pages may call this server; null: all without "
        "`api_keys`, none with them.",
    )
    root_path: str = Field(
        default="", description="Path prefix under which a reverse proxy serves this."
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=("127.0.0.1",),
        description="Addresses or networks of proxies, whose `X-Forwarded-For` is believed.",
    )
    rate_per_minute: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="POST requests a minute of one client, by key or else by address; further "
        "ones get 429. null: as many as come.",
    )
    max_body_bytes: int = Field(
        default=134_217_728, ge=65_536, le=2**31, description="Largest request body, bytes."
    )
    max_image_pixels: int = Field(
        default=64_000_000,
        ge=65_536,
        le=178_000_000,
        description="Largest picture, width x height, pixels.",
    )
    max_connections: int = Field(
        default=1000,
        ge=10,
        le=100_000,
        description="Connections at one time; further ones take the place of those that ask for "
        "nothing, or get 503.",
    )
    transfer_timeout_seconds: float = Field(
        default=30,
        gt=0,
        le=3600,
        description="Seconds for a request's head; for a body, and for taking a reply, so many "
        "and one more for each 16 KiB.",
    )
    shutdown_grace_seconds: float = Field(
        default=8.0, ge=0, le=600, description="Seconds that the running stage is given at a stop."
    )

    @field_validator("api_keys", "cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        """JSON has lists only."""
        return tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType]

    @field_validator("api_keys", mode="after")
    @classmethod
    def _not_empty(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(not key.get_secret_value().strip() for key in keys):
            raise ValueError("an API key is empty")
        return keys

    @field_validator("trusted_proxies", mode="after")
    @classmethod
    def _addresses(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        wrong = next((proxy for proxy in proxies if not _is_network(proxy)), None)
        if wrong is not None:
            raise ValueError(
                f"{wrong!r:.60} is neither an IP address nor a network such as 10.0.0.0/8"
            )
        return proxies


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


class ModelSettings(_Section):
    """Which engine, and what it needs."""

    engine: Literal["auto", "trellis2", "preview"] = Field(
        default="auto",
        description="`auto`: TRELLIS.2 where it can run, otherwise the embedded CPU preview.",
    )
    model_path: str = Field(
        default="microsoft/TRELLIS.2-4B",
        min_length=1,
        description="TRELLIS.2's weights: a folder, or a repository on the Hugging Face Hub.",
    )
    device: str = Field(
        default="cuda",
        pattern=r"^(cpu|mps|(cuda|xpu)(:\d{1,3})?)$",
        description="PyTorch device of TRELLIS.2: `cuda`, `cuda:1`, `mps`, `cpu`.",
    )
    trellis2_path: str | None = Field(
        default=None,
        description="A checkout of TRELLIS.2, put on `sys.path`; the environment variable "
        "`TRELLIS2_HOME` does the same.",
    )
    offline: bool = Field(
        default=False, description="Download nothing; what is missing is an error."
    )
    revision: str | None = Field(
        default=None,
        min_length=1,
        description="Branch, tag or commit of `model_path` on the Hub; null: its default branch.",
    )
    image_encoder: str | None = Field(
        default=None,
        min_length=1,
        description="DINOv3 in transformers' format, a folder or a repository on the Hub; null: "
        "the checkpoint's, which is gated.",
    )
    low_vram: bool | None = Field(
        default=None,
        description="Keep models on the CPU until they are needed; null: as the checkpoint says.",
    )
    idle_unload_seconds: float | None = Field(
        default=None,
        gt=0,
        le=31_536_000,
        description="Seconds without a job after which the device's memory is given back; the "
        "next job loads the model again. Null: never.",
    )
    background: Literal["auto", "rembg", "grabcut", "none", "upstream"] = Field(
        default="auto",
        description="How the object is cut out of an opaque picture; `auto`: rembg, and "
        "GrabCut where its model cannot be had; `upstream`: TRELLIS.2's own gated remover.",
    )
    background_model: str = Field(
        default="isnet-general-use",
        pattern=r"^[a-z0-9_-]+$",
        description="Name of the rembg model, downloaded by rembg on first use.",
    )


class GenerationSettings(_Section):
    """What a request that does not say otherwise gets."""

    seed: int = Field(default=42, ge=RANDOM_SEED, le=MAX_SEED, description="Seed; -1: random.")
    pipeline_type: PipelineType = Field(
        default="1024_cascade", description="Resolution of the voxels."
    )
    max_num_tokens: int = Field(
        default=49_152,
        ge=TOKEN_BOUNDS[0],
        le=TOKEN_BOUNDS[1],
        description="Tokens a cascade may use.",
    )
    ss_guidance_scale: float = Field(
        default=7.5, ge=0, le=20, description="Guidance of the sparse-structure stage."
    )
    ss_sampling_steps: int = Field(default=12, ge=1, le=100, description="Steps of that stage.")
    shape_guidance_scale: float = Field(
        default=7.5, ge=0, le=20, description="Guidance of the shape stage."
    )
    shape_sampling_steps: int = Field(default=12, ge=1, le=100, description="Steps of that stage.")
    tex_guidance_scale: float = Field(
        default=1.0, ge=0, le=20, description="Guidance of the texture stage."
    )
    tex_sampling_steps: int = Field(default=12, ge=1, le=100, description="Steps of that stage.")


class ExportSettings(_Section):
    """How a mesh becomes a file."""

    glb_decimation_target: int = Field(
        default=1_000_000,
        ge=FACE_BOUNDS[0],
        le=FACE_BOUNDS[1],
        description="Faces at most in a GLB.",
    )
    glb_texture_size: Literal[256, 512, 1024, 2048, 4096, 8192] = Field(
        default=4096, description="Edge of the textures, pixels."
    )
    # Upstream's demo remeshes. Here it is asked for: TRELLIS.2's surfaces may be open, with
    # sheets of no thickness, and a file that shows them as they were made comes sooner.
    remesh: bool = Field(
        default=False,
        description="Wrap every model in one watertight shell; otherwise surfaces stay open where "
        "they are.",
    )
    backend: Literal["own", "upstream"] = Field(
        default="own",
        description="Who writes textured GLBs of TRELLIS.2's models: our exporter, or `upstream`: "
        "TRELLIS.2's `to_glb`, which needs its compiled extensions.",
    )
    unwrap: Literal["own", "xatlas"] = Field(
        default="own", description="UV unwrapping: our own, or the slower xatlas in a subprocess."
    )
    alpha_mode: AlphaMode = Field(
        default="auto", description="glTF alpha mode; `auto`: by the field."
    )
    texture_format: TextureFormat = Field(
        default="auto", description="Image format in the GLB; `auto`: JPEG when opaque, else WebP."
    )
    compress: Compression | None = Field(
        default=None, description="Geometry compression in the GLB."
    )


class WorkerSettings(_Section):
    """Queue, limits and retention."""

    limit_model_concurrency: int = Field(
        default=5, ge=1, le=64, description="Jobs that are being worked on at one time."
    )
    job_cleanup_interval_seconds: float = Field(
        default=300,
        gt=0,
        le=86_400,
        description="Seconds between two looks for jobs that have aged out.",
    )
    job_max_age_seconds: float = Field(
        default=3600, gt=0, le=31_536_000, description="Seconds that a finished job is kept."
    )
    max_queue_length: int = Field(
        default=100, ge=1, le=10_000, description="Jobs that may wait; further requests get 503."
    )
    max_waiting_bytes: int = Field(
        default=2**30,
        ge=65_536,
        le=2**40,
        description="Bytes of uploads that jobs which wait may hold; further requests get 503.",
    )
    max_jobs_per_client: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Unfinished jobs that one client, an API key or an address, may have; further "
        "requests get 429. Null: as many as there is room for.",
    )
    texture_timeout_seconds: float = Field(
        default=300, gt=0, le=86_400, description="Seconds that `/generate_texture` waits."
    )
    stage_timeout_seconds: float | None = Field(
        default=1800,
        gt=0,
        le=86_400,
        description="Seconds that one step of a job may take; past it the job fails, and the "
        "process is unhealthy and leaves with 70. Null: as long as it likes.",
    )
    recycle_after_jobs: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Jobs after which the model is unloaded and loaded again. Null: never.",
    )
    max_vram_growth_mb: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Megabytes by which the device's memory in use may grow over what it was "
        "after the first job; past it the model is loaded again. Null: any.",
    )
    oom_fallback: Literal["none", "tokens", "resolution"] = Field(
        default="resolution",
        description="What a job that is out of GPU memory is tried again with: fewer tokens, or "
        "then also a lower pipeline type.",
    )
    abandoned_job_seconds: float = Field(
        default=120,
        gt=0,
        le=86_400,
        description="Seconds after which a waiting job that nobody waits for is given up.",
    )
    result_dir: str | None = Field(
        default=None,
        min_length=1,
        description="Folder that keeps results over restarts, for this server alone; null: they "
        "are kept in memory.",
    )
    max_result_bytes: int = Field(
        default=21_474_836_480,
        ge=67_108_864,
        le=2**50,
        description="Bytes of results and geometry that are kept; the jobs that finished first go.",
    )
    max_kept_bytes: int = Field(
        default=1_073_741_824,
        ge=0,
        le=2**40,
        description="Bytes of geometry that are kept in memory for exporting again, least recently "
        "used out first; with `result_dir` it goes to disk. 0: none is kept at all.",
    )


class Settings(_Section):
    """A whole configuration; every key has a default."""

    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    generation: GenerationSettings = GenerationSettings()
    export: ExportSettings = ExportSettings()
    worker: WorkerSettings = WorkerSettings()


def load_settings(
    file: Path, overrides: Mapping[str, Mapping[str, object]] | None = None
) -> Settings:
    """The configuration in a file, over the defaults, under `overrides` (section → key).

    The file may be partial; keys that begin with `_` are comments.

    Raises:
        ConfigError: one line that names the file, the key and what is allowed.
    """
    try:
        parsed: object = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not JSON: {error}") from error
    content = _without_comments(parsed)
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: must be a JSON object of the sections {_names(Settings)}")
    for section, values in (overrides or {}).items():
        known = content.get(section)
        content[section] = {**(known if isinstance(known, dict) else {}), **values}
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{file}: {_first_problem(error)}") from error


def _without_comments(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_comments(v) for k, v in value.items() if not str(k).startswith("_")}
    return value


def _names(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = [str(part) for part in problem["loc"] if not str(part).startswith("function-")]
    key = ".".join(where)
    if problem["type"] == "extra_forbidden":
        section = Settings.model_fields.get(where[0]) if len(where) > 1 else None
        model = section.annotation if section else Settings
        return f"{key}: unknown key; known here: {_names(model)}"  # pyright: ignore[reportArgumentType]
    given = problem["input"]
    shown = "" if "api_keys" in where or isinstance(given, dict | list) else f", not {given!r:.60}"
    what = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {what[:1].lower()}{what[1:]}{shown}"
