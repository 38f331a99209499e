"""Request parameters: declaration, parsing, and the records they are parsed into.

A number out of range is clamped, a number sent as a string is parsed, an unknown field is
ignored, and a value that makes no sense is refused with the field's name. It does not matter
whether a field came as JSON, in a form or in the query.

What this module does not know: HTTP, the engines, which packages are installed.
"""

from __future__ import annotations

import math
import re
import secrets
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from trellis2_server.errors import InputError
from trellis2_server.settings import (
    FACE_BOUNDS,
    MAX_SEED,
    RANDOM_SEED,
    TOKEN_BOUNDS,
    AlphaMode,
    Compression,
    PipelineType,
    TextureFormat,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trellis2_server.settings import Settings

FileType = Literal["glb", "obj", "ply", "stl", "obj_zip"]

TEXTURE_SIZES_PX: Final = (256, 512, 1024, 2048, 4096, 8192)
STEP_BOUNDS: Final = (1, 100)
GUIDANCE_BOUNDS: Final = (0.0, 20.0)
RESCALE_BOUNDS: Final = (0.0, 1.0)
RESCALE_T_BOUNDS: Final = (1.0, 20.0)


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
