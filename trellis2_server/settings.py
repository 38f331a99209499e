"""`Settings`: the operator's configuration, with bounds, units and defaults.

The command line reads it once and passes it down.

Does not know: HTTP, how requests are parsed, which packages are installed.
"""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path  # noqa: TC003 - pydantic reads the annotation
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from trellis2_server.errors import ConfigError, InputError
from trellis2_server.outbound.hosts import HostList
from trellis2_server.outbound.signatures import signing_key
from trellis2_server.outbound.urls import parse_url
from trellis2_server.request_fields import (
    BY_NAME,
    AlphaMode,
    Compression,
    PipelineType,
    TextureFormat,
    TextureSize,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


#: Reactions to a lack of GPU memory.
OomFallback = Literal["none", "tokens", "resolution"]

#: Families of routes that `server.protocols` turns on.
Protocol = Literal["native", "hunyuan", "openai", "sglang", "stableprojectorz", "unity"]

#: Number of the largest bodies that may be in flight, where no budget is set.
_BODIES_IN_FLIGHT: Final = 4

#: Keys whose values no message shows.
_SECRETS: Final = frozenset({"api_keys", "api_key", "link_secret", "webhook_secret"})

#: Environment variables with secrets of settings → section and key.
_SECRET_VARIABLES: Final = {
    "TRELLIS2_SERVER_LINK_SECRET": ("server", "link_secret"),
    "TRELLIS2_SERVER_WEBHOOK_SECRET": ("server", "webhook_secret"),
    "TRELLIS2_SERVER_TEXT_TO_IMAGE_KEY": ("text_to_image", "api_key"),
}

#: How a configuration without a file is called.
BUILT_IN: Final = "built-in defaults"


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False
    )


class ServerSettings(_Section):
    """Address, access, limits and logging of the HTTP server."""

    host: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=("0.0.0.0", "::"),  # noqa: S104
        min_length=1,
        description="Addresses to listen on, a list or one. `::` is every IPv6 and IPv4 address; "
        "an address that the machine has no protocol for is left out beside others.",
    )
    port: int = Field(default=8082, ge=0, le=65_535, description="TCP port; 0: any free port.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe level that is logged, to standard error."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Format of the log: one line per record, as text or JSON."
    )
    protocols: tuple[Protocol, ...] = Field(
        default=("native", "hunyuan", "openai"),
        min_length=1,
        description="Protocols to serve. Jobs, their files, health and metrics are served with any "
        "of them.",
    )
    api_keys: tuple[SecretStr, ...] = Field(
        default=(), description="API keys; each request needs one of them. None: no key is needed."
    )
    api_keys_file: Path | None = Field(
        default=None,
        strict=False,
        description="File with more API keys, one per line; `#` begins a comment. The environment "
        "variable `TRELLIS2_SERVER_API_KEYS` may hold more, separated by commas.",
    )
    link_secret: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Secret that signs links to a job's files, where there are API keys. Null: a "
        "random one at each start, which ends earlier links. The environment variable "
        "`TRELLIS2_SERVER_LINK_SECRET` sets it, too.",
    )
    link_seconds: int = Field(
        default=3600,
        ge=60,
        le=604_800,
        description="How long a signed link is valid, seconds; up to a minute more.",
    )
    cors_origins: tuple[str, ...] | None = Field(
        default=None,
        description="Web origins whose pages may call this server (CORS). Null: all if there are "
        "no API keys, otherwise none.",
    )
    root_path: str = Field(
        default="", description="Path prefix under which a reverse proxy serves this server."
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=(),
        description="Addresses or networks of proxies whose `X-Forwarded-For` header is trusted. "
        "Their connections count in no client's limit.",
    )
    rate_per_minute: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="Maximum POST requests, and GETs of a job's file or picture that make it, "
        "per minute and client (API key, otherwise address); more get 429. Null: unlimited.",
    )
    max_body_bytes: int = Field(
        default=134_217_728,
        ge=65_536,
        le=2**31,
        description="Maximum size of a request body, bytes.",
    )
    max_inflight_bytes: int | None = Field(
        default=None,
        ge=65_536,
        le=2**40,
        description="Maximum size of all request bodies that are being received or parsed, bytes, "
        "at least `max_body_bytes`; more requests get 503. One client may use half of it, but "
        "always one body; more get 429. Null: four times `max_body_bytes`.",
    )
    max_image_pixels: int = Field(
        default=64_000_000,
        ge=65_536,
        le=178_000_000,
        description="Maximum size of a picture, width x height, pixels. Of a JPEG of up to 200 "
        "million pixels, what is decoded counts, which is up to 1/64 of them.",
    )
    max_connections: int = Field(
        default=1000,
        ge=10,
        le=100_000,
        description="Maximum number of open connections. A new one beyond it replaces an idle "
        "connection, or gets 503.",
    )
    max_connections_per_client: int | None = Field(
        default=200,
        ge=1,
        le=100_000,
        description="Maximum number of open connections from one address (IPv6: one /64 network); "
        "more get 503. Null: unlimited.",
    )
    max_event_streams_per_client: int | None = Field(
        default=50,
        ge=1,
        le=100_000,
        description="Maximum number of open event streams per client (API key, otherwise "
        "address); more get 429. Null: unlimited.",
    )
    transfer_timeout_seconds: float = Field(
        default=30,
        gt=0,
        le=3600,
        description="Time limit for receiving a request's head, and for a body or a reply that "
        "stops, seconds. Above 16 KiB/s, a body or a reply may take as long as it needs.",
    )
    shutdown_grace_seconds: float = Field(
        default=8.0,
        ge=0,
        le=600,
        description="Time that running stages have to end at shutdown, seconds.",
    )
    image_hosts: tuple[str, ...] = Field(
        default=(),
        description="Hosts from which this server fetches the `image_url` of a request: names, "
        "`*.name` for all names below it, addresses or networks, each with `:port` where it is not "
        "the usual one. Addresses that are not public must be listed themselves. None: no "
        "`image_url`.",
    )
    webhook_hosts: tuple[str, ...] = Field(
        default=(),
        description="Hosts that the `webhook` of a request may name, written like `image_hosts`. "
        "Needs `webhook_secret`. None: no webhooks.",
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        description="Secret that signs webhooks (HMAC-SHA256), at least 16 characters; after "
        "`whsec_`, base64. The environment variable `TRELLIS2_SERVER_WEBHOOK_SECRET` takes its "
        "place.",
    )

    @field_validator("host", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        """Accept one address."""
        return (value,) if isinstance(value, str) else value

    @field_validator(
        "host", "protocols", "api_keys", "cors_origins", "trusted_proxies", "image_hosts",
        "webhook_hosts", mode="before",
    )  # fmt: skip
    @classmethod
    def _list(cls, value: object) -> object:
        """Convert a list to a tuple, which JSON does not have."""
        return tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType]

    @field_validator("image_hosts", "webhook_hosts", mode="after")
    @classmethod
    def _hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        HostList(hosts)
        return hosts

    @field_validator("webhook_secret", mode="after")
    @classmethod
    def _secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            signing_key(secret.get_secret_value())
        return secret

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

    @field_validator("max_inflight_bytes", mode="after")
    @classmethod
    def _holds_a_body(cls, budget: int | None, info: ValidationInfo) -> int | None:
        body = info.data.get("max_body_bytes", 0)  # absent if it is invalid itself
        if budget is not None and budget < body:
            raise ValueError(f"should be at least server.max_body_bytes, which is {body}")
        return budget

    @property
    def body_budget(self) -> int:
        """`max_inflight_bytes`, or what stands for null, bytes."""
        return self.max_inflight_bytes or _BODIES_IN_FLIGHT * self.max_body_bytes


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


class ModelSettings(_Section):
    """Engine, weights, device and background model.

    Its `repr` is part of the keys of stored results: renaming or reordering fields loses them.
    A new field that changes no result has `repr=False`.
    """

    engine: Literal["auto", "trellis2", "preview"] = Field(
        default="auto",
        description="Engine. `auto`: TRELLIS.2 if it can run, otherwise the preview engine, on the "
        "CPU.",
    )
    model_path: str = Field(
        default="microsoft/TRELLIS.2-4B",
        min_length=1,
        description="Weights of TRELLIS.2: a folder, or a repository on the Hugging Face Hub.",
    )
    device: str = Field(
        default="cuda",
        pattern=r"^(cpu|mps|(cuda|xpu)(:\d{1,3})?)$",
        description="PyTorch device of TRELLIS.2: `cuda`, `cuda:1`, `mps`, `cpu`, …",
    )
    trellis2_path: str | None = Field(
        default=None,
        description="Checkout of TRELLIS.2, added to `sys.path`; the environment variable "
        "`TRELLIS2_HOME` does the same.",
    )
    offline: bool = Field(default=False, description="Never download; missing files are an error.")
    revision: str | None = Field(
        default=None,
        min_length=1,
        description="Branch, tag or commit of `model_path` on the Hub. Null: a commit that this "
        "version of the server names if it is the default, otherwise its default branch.",
    )
    image_encoder: str | None = Field(
        default=None,
        min_length=1,
        description="DINOv3 in transformers' format: a folder, or a repository on the Hub. Null: "
        "the checkpoint's, which is gated.",
    )
    low_vram: bool | None = Field(
        default=None,
        description="Keep models on the CPU while not in use. Null: only on devices whose memory "
        "is too small for all models and, as modelled, a job of the default `pipeline_type`.",
    )
    idle_unload_seconds: float | None = Field(
        default=None,
        gt=0,
        le=31_536_000,
        description="Time without a job after which the model is unloaded from the device, "
        "seconds; the next job loads it again. Null: never.",
    )
    background: Literal["auto", "rembg", "grabcut", "none", "upstream"] = Field(
        default="auto",
        description="Background removal for opaque pictures. `auto`: rembg, or GrabCut if "
        "rembg's model cannot be downloaded. `upstream`: TRELLIS.2's own model, which is gated.",
    )
    background_model: str = Field(
        default="isnet-general-use",
        pattern=r"^[a-z0-9_-]+$",
        description="Name of the rembg model, which is downloaded from where rembg says.",
    )
    # These change no result, or only its last bits: they are not part of the keys (`repr`).
    background_prefetch: bool | None = Field(
        default=None,
        repr=False,
        description="Fetch the rembg model in the background when the server starts, instead of "
        "for the first photograph. Null: if `background` is `auto` or `rembg`.",
    )
    patches: Literal["exact"] | bool = Field(
        default="exact",
        repr=False,
        description="Replace slow functions of TRELLIS.2 by faster ones. `exact`: those with the "
        "same results, bit for bit. `true`: also those whose results differ by rounding. `false`: "
        "none.",
    )
    attention: Literal["auto", "flash", "cudnn", "efficient", "varlen", "math"] = Field(
        default="auto",
        repr=False,
        description="PyTorch's kernel for attention. `auto`: by device, length and batch; an "
        "installed flash_attn is used instead. Any other value also replaces flash_attn.",
    )
    compile: Literal["auto", "none", "blocks", "graphs", "both"] = Field(
        default="auto",
        repr=False,
        description="Compilation of the sampling models. `blocks`: `torch.compile` of the "
        "parts of each block, equal to rounding. `graphs`: CUDA graphs of whole models, the same "
        "bits. `auto`: `both` on CUDA, otherwise `none`.",
    )

    @property
    def prefetches_background(self) -> bool:
        """Whether the background model is fetched when the server starts."""
        if self.background_prefetch is None:
            return self.background in {"auto", "rembg"}
        return self.background_prefetch


def _default_of(name: str) -> Any:
    """Return the setting that holds the default of a request's field, within its bounds."""
    field = BY_NAME[name]
    low, high = field.bounds or (None, None)
    return Field(
        default=field.default, ge=low, le=high, description=f"Default of `{name}`: {field.summary}."
    )


class GenerationSettings(_Section):
    """Defaults of a request's fields, for the engine."""

    seed: int = _default_of("seed")
    pipeline_type: PipelineType = _default_of("pipeline_type")
    max_num_tokens: int = _default_of("max_num_tokens")
    ss_guidance_scale: float = _default_of("ss_guidance_scale")
    ss_sampling_steps: int = _default_of("ss_sampling_steps")
    shape_guidance_scale: float = _default_of("shape_guidance_scale")
    shape_sampling_steps: int = _default_of("shape_sampling_steps")
    tex_guidance_scale: float = _default_of("tex_guidance_scale")
    tex_sampling_steps: int = _default_of("tex_sampling_steps")


class ExportSettings(_Section):
    """Defaults of a request's fields, for the export, and how files are written."""

    glb_decimation_target: int = _default_of("decimation_target")
    glb_texture_size: TextureSize = _default_of("texture_size")
    remesh: bool = _default_of("remesh")
    backend: Literal["own", "upstream"] = Field(
        default="own",
        description="Exporter of textured GLBs of TRELLIS.2's models. `own`: this server's. "
        "`upstream`: TRELLIS.2's `to_glb`, which needs its compiled extensions.",
    )
    unwrap: Literal["own", "xatlas"] = Field(
        default="own",
        description="UV unwrapping: this server's, or xatlas in a subprocess, which is slower.",
    )
    max_texture_size: TextureSize | None = Field(
        default=None,
        description="Maximum `texture_size` of a request; larger ones are lowered to it. Null: "
        "the field's own maximum.",
    )
    max_decimation_target: int | None = Field(
        default=None,
        ge=1_000,
        le=16_777_216,
        description="Maximum `decimation_target` of a request; larger ones are lowered to it. "
        "Null: the field's own maximum.",
    )
    alpha_mode: AlphaMode = _default_of("alpha_mode")
    texture_format: TextureFormat = _default_of("texture_format")
    compress: Compression | None = _default_of("compress")

    @model_validator(mode="after")
    def _defaults_within_maxima(self) -> ExportSettings:
        for key, maximum_key in (
            ("glb_texture_size", "max_texture_size"),
            ("glb_decimation_target", "max_decimation_target"),
        ):
            value, maximum = getattr(self, key), getattr(self, maximum_key)
            if maximum is not None and value > maximum:
                raise ValueError(f"{key}, {value}, must not be over {maximum_key}, {maximum}")
        return self


class WorkerSettings(_Section):
    """Queue, limits, and retention of results."""

    limit_model_concurrency: int = Field(
        default=5, ge=1, le=64, description="Maximum number of jobs in progress at the same time."
    )
    job_cleanup_interval_seconds: float = Field(
        default=300,
        gt=0,
        le=86_400,
        description="Interval at which expired jobs are deleted, seconds.",
    )
    job_max_age_seconds: float = Field(
        default=3600,
        gt=0,
        le=31_536_000,
        description="Time that a finished job is kept after it was last asked for, seconds.",
    )
    max_queue_length: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description="Maximum number of waiting jobs, lookups and exports; more requests get 503.",
    )
    max_waiting_bytes: int = Field(
        default=2**30,
        ge=65_536,
        le=2**40,
        description="Maximum size of all uploads of waiting jobs and lookups, bytes; more "
        "requests get 503.",
    )
    max_jobs_per_client: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Maximum number of unfinished jobs and lookups per client (API key, otherwise "
        "address); more requests get 429. Null: unlimited.",
    )
    max_exports_per_client: int | None = Field(
        default=8,
        ge=1,
        le=10_000,
        description="Maximum number of unfinished exports and conversions of finished models per "
        "client (API key, otherwise address); more requests get 429. Null: unlimited.",
    )
    decode_timeout_seconds: float = Field(
        default=30,
        gt=0,
        le=3600,
        description="Time limit for decoding one picture or mesh, seconds; past it the file is "
        "refused with 400.",
    )
    decode_memory_bytes: int = Field(
        default=2**31,
        ge=2**28,
        le=2**40,
        description="Memory limit of a process that decodes uploads, bytes, besides what the "
        "limits on pixels and faces warrant; past it the file is refused with 413.",
    )
    texture_timeout_seconds: float = Field(
        default=300,
        gt=0,
        le=86_400,
        description="Time that `/generate_texture` waits for a texture, seconds.",
    )
    stage_timeout_seconds: float | None = Field(
        default=1800,
        gt=0,
        le=86_400,
        description="Time limit for one step of a job, a lookup or an export, seconds. Past it, "
        "that one fails. If it uses the engine's device and does not stop within 10 s after it is "
        "told to, the process becomes unhealthy, too, and exits with code 70. Null: unlimited.",
    )
    recycle_after_jobs: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Number of jobs after which the model is loaded again. Null: never.",
    )
    max_vram_growth_mb: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Growth of the device memory in use besides weights, compared with that after "
        "the first job, past which the model is loaded again, megabytes; also of memory outside of "
        "PyTorch's allocator, where other processes on the same device count too. Null: unlimited.",
    )
    oom_fallback: OomFallback = Field(
        default="resolution",
        description="How to retry a job that ran out of GPU memory. `tokens`: with fewer tokens. "
        "`resolution`: with fewer tokens, then at a lower pipeline type.",
    )
    abandoned_job_seconds: float = Field(
        default=120,
        gt=0,
        le=86_400,
        description="Time after which a waiting job without a waiting request is cancelled, "
        "seconds.",
    )
    result_dir: str | None = Field(
        default=None,
        min_length=1,
        description="Folder for results, which then survive restarts; not shared with other "
        "servers. Null: in memory.",
    )
    max_result_bytes: int = Field(
        default=21_474_836_480,
        ge=67_108_864,
        le=2**50,
        description="Maximum size of all stored results and snapshots, bytes; jobs that were "
        "asked for least recently are deleted first.",
    )
    max_kept_bytes: int = Field(
        default=1_073_741_824,
        ge=0,
        le=2**40,
        description="Maximum size of snapshots (geometry for later exports) in memory, bytes; the "
        "least recently used are dropped first. With `result_dir` snapshots are on disk. 0: no "
        "snapshots at all.",
    )


class TextToImageSettings(_Section):
    """The server that makes pictures of a request's `text`."""

    url: str | None = Field(
        default=None,
        description="URL of a server that makes pictures as OpenAI's does, such as "
        "`http://localhost:8080/v1/images/generations`. Null: requests need a picture.",
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="Key of that server, sent as `Authorization: Bearer`. The environment variable "
        "`TRELLIS2_SERVER_TEXT_TO_IMAGE_KEY` takes its place.",
    )
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Name of its model. Null: none is sent.",
    )
    size: str | None = Field(
        default="1024x1024",
        pattern=r"^([1-9]\d{1,3}x[1-9]\d{1,3}|auto)$",
        description="Size of its pictures, width x height, pixels. Null: none is sent.",
    )
    prompt_suffix: str = Field(
        default=". One single object, whole and centred, seen slightly from above, on a plain "
        "white background, in even light, without shadow, text and frame.",
        max_length=1000,
        description="Text that follows the request's, so that the picture shows one object that "
        "can be cut out.",
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        default="b64_json",
        description="Form of its replies to ask for. Null: none is sent, for models that know no "
        "such field, as OpenAI's `gpt-image-1`. Pictures that are sent as a URL must be on that "
        "server, or on one of `server.image_hosts`.",
    )
    send_seed: bool = Field(
        default=False,
        description="Send the job's seed as `seed`, which some servers know; OpenAI's refuses it.",
    )
    timeout_seconds: float = Field(
        default=180,
        gt=0,
        le=3600,
        description="Time limit for one picture, seconds.",
    )
    max_requests: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Maximum number of pictures that are being made at the same time; further "
        "jobs wait.",
    )

    @field_validator("url", mode="after")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        if url is not None:
            try:
                parse_url(url, "the URL")
            except InputError as error:
                raise ValueError(str(error)) from error
        return url

    @field_validator("api_key", mode="after")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not re.fullmatch(r"[!-~]+", key.get_secret_value()):
            raise ValueError("a key has no white space, and only characters of ASCII")
        return key


class Settings(_Section):
    """The whole configuration; every key has a default."""

    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    generation: GenerationSettings = GenerationSettings()
    export: ExportSettings = ExportSettings()
    worker: WorkerSettings = WorkerSettings()
    text_to_image: TextToImageSettings = TextToImageSettings()


def load_settings(
    file: Path | None,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
    *,
    override_names: Mapping[str, str] | None = None,
) -> Settings:
    """Return the configuration of a file, with defaults for missing keys.

    Args:
        file: JSON; keys that begin with `_` are comments. None: the built-in defaults.
        overrides: section → key → value, which win over the file.
        override_names: section.key → what errors call that override, such as "--port".

    Raises:
        ConfigError: one line that names the file and the key, or the override, and what is allowed.
    """
    where = str(file) if file else BUILT_IN
    content = _read(file) if file else {}
    for section, values in (overrides or {}).items():
        known = content.get(section)
        content[section] = {**(known if isinstance(known, dict) else {}), **values}
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        problem = _first_problem(error)
        key, _, what = problem.partition(": ")
        names = override_names or {}
        name = next(
            (name for each, name in names.items() if f"{key}.".startswith(f"{each}.")), None
        )
        said = f"{where}: {problem}" if name is None else f"{name}: {what}"
        raise ConfigError(said) from error


def with_secrets(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """Return a copy of the settings with the secrets of the environment, for calls to other hosts.

    Raises:
        ConfigError: one of them is invalid, or webhooks have hosts but no secret.
    """
    for variable, (section, key) in _SECRET_VARIABLES.items():
        value = environment.get(variable, "").strip()
        if not value:
            continue
        known: BaseModel = getattr(settings, section)
        try:
            checked = type(known).model_validate({**dict(known), key: SecretStr(value)})
        except ValidationError as error:
            raise ConfigError(f"{variable}: {_first_problem(error)}") from error
        settings = settings.model_copy(update={section: checked})
    if settings.server.webhook_hosts and settings.server.webhook_secret is None:
        raise ConfigError(
            "server.webhook_hosts: needs server.webhook_secret, or "
            "TRELLIS2_SERVER_WEBHOOK_SECRET in the environment"
        )
    return settings


def _read(file: Path) -> dict[str, Any]:
    try:
        parsed: object = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not JSON: {error}") from error
    content = _without_comments(parsed)
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: must be a JSON object of the sections {_names(Settings)}")
    return content


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
    value = problem["input"]
    is_secret = not _SECRETS.isdisjoint(where)
    shown = "" if is_secret or isinstance(value, dict | list) else f", not {value!r:.60}"
    what = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {what[:1].lower()}{what[1:]}{shown}"
