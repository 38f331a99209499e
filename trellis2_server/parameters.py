"""`Settings`, what the operator decides, and `Options`, what one request asks for.

`Settings` is read once, by the entry file, and passed down. `Options` is read from the
fields of a request, whatever carried them: a number out of range is clamped, one sent as a
string is parsed, an unknown field is ignored, and what cannot be meant is refused by name.

What this module does not know: HTTP, the engines, which packages are installed.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path  # noqa: TC003 - pydantic reads the annotation
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from trellis2_server.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PipelineType = Literal["512", "1024", "1024_cascade", "1536_cascade"]
AlphaMode = Literal["auto", "OPAQUE", "MASK", "BLEND"]
TextureFormat = Literal["auto", "webp", "png", "jpeg"]
Compression = Literal["meshopt", "draco"]
FileType = Literal["glb", "obj", "ply", "stl", "obj_zip"]

MAX_SEED: Final = 2**32 - 1
RANDOM_SEED: Final = -1
TEXTURE_SIZES_PX: Final = (256, 512, 1024, 2048, 4096, 8192)
FACE_BOUNDS: Final = (1_000, 16_777_216)
TOKEN_BOUNDS: Final = (4_096, 262_144)
STEP_BOUNDS: Final = (1, 100)
GUIDANCE_BOUNDS: Final = (0.0, 20.0)
RESCALE_BOUNDS: Final = (0.0, 1.0)
RESCALE_T_BOUNDS: Final = (1.0, 20.0)


# ---- what the operator decides ---------------------------------------------------------


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


# ---- what one request asks for ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SamplerOptions:
    """One stage's sampler; None takes what the checkpoint says.

    Attributes:
        guidance_scale: classifier-free guidance, 0 … 20; 1 is none.
        sampling_steps: 1 … 100.
        guidance_rescale: 0 … 1.
        guidance_interval: part of the time [0, 1] in which guidance is applied.
        rescale_t: 1 … 20.
    """

    guidance_scale: float
    sampling_steps: int
    guidance_rescale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    rescale_t: float | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """All that changes the result of a job, apart from its picture.

    Attributes:
        seed: 0 … 2³²-1.
        is_seed_random: the client left the seed to us; such a job matches no other.
        ss: sampler of the sparse structure.
        shape: sampler of the shape.
        tex: sampler of the texture.
        pipeline_type: resolution of the voxels, and whether it is reached by a cascade.
        max_num_tokens: of a cascade.
        decimation_target: faces at most.
        remesh: whether the surface is wrapped in a watertight shell.
        texture_size: edge of the textures, pixels.
        alpha_mode: glTF's, or "auto".
        texture_format: of the images in the GLB.
        compress: of the geometry in the GLB.
        remove_background: whether an opaque picture is cut out.
        mesh: MD5 of the file of a mesh that is to be textured; None: one is to be made.
        geo_rotation: degrees by which that mesh is turned before it is textured.
    """

    seed: int
    is_seed_random: bool
    ss: SamplerOptions
    shape: SamplerOptions
    tex: SamplerOptions
    pipeline_type: PipelineType
    max_num_tokens: int
    decimation_target: int
    remesh: bool
    texture_size: int
    alpha_mode: AlphaMode
    texture_format: TextureFormat
    compress: Compression | None
    remove_background: bool
    mesh: str | None = None
    geo_rotation: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a request wants to have sent back; it does not change the result.

    Attributes:
        texture: True: wait for the textured model; False: do not even start its texture;
            None: answer with the untextured one, and start the texture by itself.
        type: of the file.
    """

    texture: bool | None
    type: FileType


@dataclass(frozen=True, slots=True)
class RequestField:
    """One field of a generation request: how it is read, and what the API's schema says.

    Attributes:
        name: the field's name.
        read: raw value → value; raises `InputError` on what cannot be meant.
        schema: JSON Schema of the well-formed value.
        aliases: names under which other clients send it; `name` itself wins.
    """

    name: str
    read: Callable[[str, Any], Any]
    schema: Mapping[str, object]
    aliases: tuple[str, ...] = ()


def _number(name: str, value: object) -> float:
    if isinstance(value, str):
        try:
            value = int(value) if re.fullmatch(r"\s*[+-]?\d{1,400}\s*", value) else float(value)
        except ValueError:
            raise InputError(f"{name}: not a number: {value[:40]!r}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name}: must be a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name}: must be a finite number")
    return value


def _real(low: float, high: float) -> Callable[[str, object], float]:
    # Clamped before the conversion: an integer of 400 digits has no float.
    return lambda name, value: float(min(max(_number(name, value), low), high))


def _whole(low: int, high: int) -> Callable[[str, object], int]:
    return lambda name, value: round(min(max(_number(name, value), low), high))


def _angle(name: str, value: object) -> float:
    return math.fmod(_real(-1e9, 1e9)(name, value), 360.0)


def _seed(name: str, value: object) -> int:
    number = _number(name, value)
    if number != int(number) or not RANDOM_SEED <= number <= MAX_SEED:
        raise InputError(f"{name}: must be a whole number from -1 (random) to {MAX_SEED}")
    return int(number)


def _flag(name: str, value: object) -> bool:
    text = str(value).strip().lower()
    if text in {"true", "1", "yes", "on"}:
        return True
    if text in {"false", "0", "no", "off"}:
        return False
    raise InputError(f"{name}: must be true or false")


def _choice(*allowed: str) -> Callable[[str, object], str]:
    by_lower = {word.lower(): word for word in allowed}

    def read(name: str, value: object) -> str:
        found = by_lower.get(str(value).strip().lower())
        if found is None:
            raise InputError(f"{name}: must be one of {', '.join(allowed)}")
        return found

    return read


def _compression(name: str, value: object) -> str | None:
    if str(value).strip().lower() in {"", "none", "null", "false"}:
        return None
    return _choice(*get_args(Compression))(name, value)


def _texture_size(name: str, value: object) -> int:
    wanted = min(max(_number(name, value), 1), TEXTURE_SIZES_PX[-1])
    return min(TEXTURE_SIZES_PX, key=lambda size: abs(math.log2(size / wanted)))


def _resolution(name: str, value: object) -> str:
    wanted = _number(name, value)
    nearest = min((512, 1024, 1536), key=lambda known: abs(known - wanted))
    return {512: "512", 1024: "1024_cascade", 1536: "1536_cascade"}[nearest]


def _interval(name: str, value: object) -> tuple[float, float]:
    parts: object = re.split(r"[,\s]+", value.strip(" []()")) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or len(parts) != 2:  # pyright: ignore[reportUnknownArgumentType]  # noqa: PLR2004
        raise InputError(f"{name}: must be two numbers, from and to, between 0 and 1")
    low, high = (_real(0.0, 1.0)(name, part) for part in parts)
    if low > high:
        raise InputError(f"{name}: from {low} must not be over to {high}")
    return low, high


def _bounded(kind: str, bounds: tuple[float, float], description: str) -> dict[str, object]:
    return {
        "type": kind,
        "minimum": bounds[0],
        "maximum": bounds[1],
        "description": description,
    }


def _sampler_fields(
    prefix: str, upstream: str, stage: str, scale: float
) -> tuple[RequestField, ...]:
    """The five fields of a stage, also under upstream's own prefix for it."""
    checkpoint = f"of the {stage} stage; the checkpoint's if absent."

    def aliases(*names: str) -> tuple[str, ...]:
        own = f"{prefix}_{names[0]}"
        every = (f"{p}_{name}" for name in names for p in (prefix, upstream))
        return tuple(dict.fromkeys(name for name in every if name != own))

    return (
        RequestField(
            f"{prefix}_guidance_scale",
            _real(*GUIDANCE_BOUNDS),
            _bounded(
                "number",
                GUIDANCE_BOUNDS,
                f"Guidance of the {stage} stage; {scale} unless configured.",
            ),
            aliases("guidance_scale", "guidance_strength"),
        ),
        RequestField(
            f"{prefix}_sampling_steps",
            _whole(*STEP_BOUNDS),
            _bounded("integer", STEP_BOUNDS, f"Steps of the {stage} stage; 12 unless configured."),
            # Hunyuan3D's texturing calls its steps so.
            (*aliases("sampling_steps"), *(("diffusion_steps",) if prefix == "tex" else ())),
        ),
        RequestField(
            f"{prefix}_guidance_rescale",
            _real(*RESCALE_BOUNDS),
            _bounded("number", RESCALE_BOUNDS, f"Guidance rescale {checkpoint}"),
            aliases("guidance_rescale"),
        ),
        RequestField(
            f"{prefix}_guidance_interval",
            _interval,
            {
                "type": "array",
                "items": {"type": "number", "minimum": 0, "maximum": 1},
                "minItems": 2,
                "maxItems": 2,
                "description": f"Part of the time that is guided, {checkpoint}",
            },
            aliases("guidance_interval"),
        ),
        RequestField(
            f"{prefix}_rescale_t",
            _real(*RESCALE_T_BOUNDS),
            _bounded("number", RESCALE_T_BOUNDS, f"Time rescale {checkpoint}"),
            aliases("rescale_t"),
        ),
    )


#: Every field that `Options` and `Delivery` are read from.
FIELDS: Final = (
    RequestField(
        "seed",
        _seed,
        {
            "type": "integer",
            "minimum": RANDOM_SEED,
            "maximum": MAX_SEED,
            "description": "Seed; -1: a random one, reported in X-Seed.",
        },
    ),
    RequestField(
        "texture",
        _flag,
        {
            "type": "boolean",
            "description": "true: wait for the textured model; false: do not start the texture "
            "until it is asked for; absent: the untextured model now, its texture in the "
            "background.",
        },
    ),
    RequestField(
        "type",
        _choice(*get_args(FileType)),
        {"type": "string", "enum": list(get_args(FileType)), "description": "File type."},
    ),
    RequestField(
        "remove_background",
        _flag,
        {
            "type": "boolean",
            "description": "false: the whole frame is the object (a picture with transparency "
            "is cut out already).",
        },
    ),
    RequestField("no_rembg", _flag, {"type": "boolean", "description": "The opposite of it."}),
    *_sampler_fields("ss", "ss", "sparse-structure", 7.5),
    *_sampler_fields("shape", "shape_slat", "shape", 7.5),
    *_sampler_fields("tex", "tex_slat", "texture", 1.0),
    RequestField(
        "guidance_scale",
        _real(*GUIDANCE_BOUNDS),
        _bounded(
            "number",
            GUIDANCE_BOUNDS,
            "Hunyuan3D's: guidance of the first two stages where they have none of their own.",
        ),
    ),
    RequestField(
        "num_inference_steps",
        _whole(*STEP_BOUNDS),
        _bounded(
            "integer",
            STEP_BOUNDS,
            "Hunyuan3D's: steps of the first two stages where they have none of their own.",
        ),
    ),
    RequestField(
        "geo_rotation",
        _angle,
        {
            "type": "number",
            "description": "Degrees by which `mesh` is turned, counter-clockwise seen from "
            "above, before the picture is laid on its front (+Z in its file). The reply is "
            "not turned.",
        },
    ),
    RequestField(
        "pipeline_type",
        _choice(*get_args(PipelineType)),
        {
            "type": "string",
            "enum": list(get_args(PipelineType)),
            "description": "Resolution of the voxels.",
        },
    ),
    RequestField(
        "resolution",
        _resolution,
        {
            "type": "integer",
            "enum": [512, 1024, 1536],
            "description": "Another way to say pipeline_type: 512, 1024_cascade, 1536_cascade.",
        },
    ),
    RequestField(
        "max_num_tokens",
        _whole(*TOKEN_BOUNDS),
        {
            "type": "integer",
            "minimum": TOKEN_BOUNDS[0],
            "maximum": TOKEN_BOUNDS[1],
            "description": "Tokens that a cascade may use.",
        },
    ),
    RequestField(
        "decimation_target",
        _whole(*FACE_BOUNDS),
        {
            "type": "integer",
            "minimum": FACE_BOUNDS[0],
            "maximum": FACE_BOUNDS[1],
            "description": "Faces at most.",
        },
        ("glb_decimation_target", "face_count"),
    ),
    RequestField(
        "remesh",
        _flag,
        {
            "type": "boolean",
            "description": "true: wrap the surface in one watertight shell, at the resolution of "
            "its voxels; false: leave it open where it is. A given mesh is never remeshed.",
        },
    ),
    RequestField(
        "texture_size",
        _texture_size,
        {
            "type": "integer",
            "enum": list(TEXTURE_SIZES_PX),
            "description": "Edge of the textures, pixels; the nearest power of two is taken.",
        },
        ("glb_texture_size",),
    ),
    RequestField(
        "alpha_mode",
        _choice(*get_args(AlphaMode)),
        {"type": "string", "enum": list(get_args(AlphaMode)), "description": "glTF alpha mode."},
    ),
    RequestField(
        "texture_format",
        _choice(*get_args(TextureFormat)),
        {
            "type": "string",
            "enum": list(get_args(TextureFormat)),
            "description": "Image format in the GLB.",
        },
    ),
    RequestField(
        "compress",
        _compression,
        {
            "type": ["string", "null"],
            "enum": [*get_args(Compression), None],
            "description": "Geometry compression in the GLB.",
        },
    ),
)


def fields_of(options: Options) -> dict[str, object]:
    """The request's fields that give these options again; the mesh is left out."""
    samplers = {
        f"{prefix}_{name}": value
        for prefix, sampler in (("ss", options.ss), ("shape", options.shape), ("tex", options.tex))
        for name, value in asdict(sampler).items()
        if value is not None
    }
    others = {
        name: getattr(options, name)
        for name in (
            "pipeline_type",
            "max_num_tokens",
            "decimation_target",
            "texture_size",
            "alpha_mode",
            "texture_format",
            "remesh",
            "remove_background",
        )
    }
    turned = {"geo_rotation": options.geo_rotation} if options.mesh else {}
    return {
        "seed": options.seed,
        **others,
        "compress": options.compress or "none",
        **samplers,
        **turned,
    }


def read_fields(raw: Mapping[str, object]) -> dict[str, Any]:
    """The known fields of a request, by their own names; null counts as absent.

    Raises:
        InputError: names the field that cannot be meant.
    """
    found: dict[str, Any] = {}
    for field in FIELDS:
        for name in (field.name, *field.aliases):
            value = raw.get(name)
            if value is None:
                continue
            if isinstance(value, dict):
                raise InputError(f"{name}: must be a single value")
            if isinstance(value, list) and field.read is not _interval:
                raise InputError(f"{name}: must be a single value")
            found[field.name] = field.read(name, value)
            break
    return found


def read_delivery(raw: Mapping[str, object]) -> Delivery:
    """What the request wants to have sent back.

    Raises:
        InputError: names the field that cannot be meant.
    """
    found = read_fields(raw)
    return Delivery(texture=found.get("texture"), type=found.get("type", "glb"))


#: Fields of `Options` that change how a shape and its material become a file, and no more.
EXPORT_FIELDS: Final = (
    "decimation_target",
    "texture_size",
    "alpha_mode",
    "texture_format",
    "compress",
    "remesh",
)


def read_export(raw: Mapping[str, object], options: Options) -> Options:
    """These options, exported as the request asks for.

    Raises:
        InputError: names the field that cannot be meant.
    """
    found = read_fields(raw)
    asked = {name: found[name] for name in EXPORT_FIELDS if name in found}
    if options.mesh or found.get("type", "glb") != "glb":
        asked["compress"] = None
    if options.mesh:
        asked["remesh"] = False
    return replace(options, **asked)


def read_options(raw: Mapping[str, object], settings: Settings, mesh: str | None = None) -> Options:
    """What the request asks for, over what is configured.

    Args:
        raw: the fields.
        settings: what is configured.
        mesh: MD5 of the mesh that the request brings, if it does.

    Raises:
        InputError: names the field that cannot be meant.
    """
    found = read_fields(raw)
    generation, export = settings.generation, settings.export
    asked: int = found.get("seed", generation.seed)
    if "seed" in raw and raw["seed"] is None:
        asked = RANDOM_SEED
    is_random = asked == RANDOM_SEED

    def sampler(prefix: str) -> SamplerOptions:
        def given(name: str) -> Any:
            return found.get(f"{prefix}_{name}")

        scale, steps = given("guidance_scale"), given("sampling_steps")
        if prefix != "tex":  # Hunyuan3D has one stage where TRELLIS.2 has two
            scale = found.get("guidance_scale") if scale is None else scale
            steps = found.get("num_inference_steps") if steps is None else steps
        return SamplerOptions(
            getattr(generation, f"{prefix}_guidance_scale") if scale is None else scale,
            getattr(generation, f"{prefix}_sampling_steps") if steps is None else steps,
            given("guidance_rescale"),
            given("guidance_interval"),
            given("rescale_t"),
        )

    return Options(
        seed=secrets.randbelow(MAX_SEED + 1) if is_random else asked,
        is_seed_random=is_random,
        ss=sampler("ss"),
        shape=sampler("shape"),
        tex=sampler("tex"),
        pipeline_type=found.get("pipeline_type", found.get("resolution", generation.pipeline_type)),
        max_num_tokens=found.get("max_num_tokens", generation.max_num_tokens),
        decimation_target=found.get("decimation_target", export.glb_decimation_target),
        # A given mesh keeps its faces.
        remesh=False if mesh else found.get("remesh", export.remesh),
        texture_size=found.get("texture_size", export.glb_texture_size),
        alpha_mode=found.get("alpha_mode", export.alpha_mode),
        texture_format=found.get("texture_format", export.texture_format),
        # It is the GLB's geometry that is compressed, and not that of somebody else's.
        compress=None
        if mesh or found.get("type", "glb") != "glb"
        else found.get("compress", export.compress),
        remove_background=found.get("remove_background", not found.get("no_rembg", False)),
        mesh=mesh,
        geo_rotation=found.get("geo_rotation", 0.0) if mesh else 0.0,
    )
