"""A request's raw fields → its parameters, over the configured defaults.

Unknown fields are ignored, and null counts as absent. It does not matter whether a field came as
JSON, in a form or in the query.

Does not know: HTTP, the engines, which packages are installed.
"""

from __future__ import annotations

import dataclasses
import secrets
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import InputError
from trellis2_server.parameters import readers
from trellis2_server.parameters.records import (
    Delivery,
    Options,
    Placement,
    SamplerOptions,
    default_placement,
)
from trellis2_server.purposes import suited_fields
from trellis2_server.request_fields import (
    BY_NAME,
    FIELDS,
    MAX_SEED,
    PRINT_SIZE_MM,
    RANDOM_SEED,
    STAGES,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.request_fields import (
        FileType,
        PipelineType,
        RemoveBackground,
        RequestField,
        Stage,
    )
    from trellis2_server.settings import Settings

#: Fields that change only how a shape and its material become a file.
EXPORT_FIELDS: Final = tuple(field.name for field in FIELDS if field.group == "export")

_SAMPLER_FIELDS: Final = tuple(field.name for field in dataclasses.fields(SamplerOptions))
#: What `Options` has under the field's own name and as the request has it.
_OPTION_FIELDS: Final = tuple(
    field.name
    for field in dataclasses.fields(Options)
    if field.name in BY_NAME and field.name != "seed"
)
#: File types whose unit is the metre, and which are always Y up.
_IN_METRES: Final[frozenset[FileType]] = frozenset({"glb", "gltf_zip", "usdz"})
#: Fields of what not all file types have, and the types that have it.
_TYPES_WITH: Final[Mapping[str, tuple[FileType, ...]]] = {
    "occlusion": ("glb", "gltf_zip", "usdz"),
    "normal_map": ("glb", "gltf_zip", "usdz", "obj_zip"),
    "lods": ("glb", "gltf_zip"),
}
_PIPELINE_TYPES: Final[Mapping[int, PipelineType]] = {
    512: "512",
    1024: "1024_cascade",
    1536: "1536_cascade",
}
#: A request's value of that field → the parameter. An omitted one has the value that stored keys
#: have had for it since before the two were told apart.
_REMOVALS: Final[Mapping[bool | None, RemoveBackground]] = {
    None: True,
    True: "always",
    False: False,
}


def read_fields(raw: Mapping[str, object]) -> dict[str, Any]:
    """Return the known fields of a request, by their own names.

    Raises:
        InputError: a value makes no sense; names the field.
    """
    found: dict[str, Any] = {}
    for field in FIELDS:
        for name in (field.name, *field.aliases):
            value = raw.get(name)
            if value is not None:
                found[field.name] = readers.read(field, name, value)
                break
    return found


def _with_preset(
    raw: Mapping[str, object], settings: Settings | None = None, *, has_mesh: bool
) -> dict[str, Any]:
    """Return the known fields of a request, with those of its preset that it leaves out.

    Args:
        raw: fields of the request.
        settings: the server's settings; None: its exporter does not matter.
        has_mesh: whether the request or the job has a mesh.
    """
    found = read_fields(raw)
    if "preset" not in found:
        return found
    suited = suited_fields(found["preset"], found.get("type"), has_mesh=has_mesh)
    both = {**read_fields(suited), **found}
    is_own = settings is None or settings.export.backend != "upstream"
    has_maps = is_own and both.get("texture") is not False
    return {
        name: value
        for name, value in both.items()
        if name in found
        or name not in _TYPES_WITH
        or (has_maps and both["type"] in _TYPES_WITH[name])
    }


def read_delivery(raw: Mapping[str, object], *, has_mesh: bool = False) -> Delivery:
    """Return what the request wants in its reply.

    Args:
        raw: fields of the request.
        has_mesh: whether the request has a mesh; `up_axis` is then that of the mesh.

    Raises:
        InputError: a value makes no sense, or not with the type; names the field.
    """
    found = _with_preset(raw, has_mesh=has_mesh)
    file_type = found.get("type", BY_NAME["type"].default)
    placement = _placement(file_type, found, has_mesh=has_mesh)
    return Delivery(
        found.get("texture"),
        file_type,
        None if placement == default_placement(file_type) else placement,
    )


def _placement(file_type: FileType, found: Mapping[str, Any], *, has_mesh: bool) -> Placement:
    default = default_placement(file_type)
    is_gltf = file_type in _IN_METRES
    up_axis = "auto" if has_mesh else found.get("up_axis", "auto")
    if is_gltf and up_axis == "z":
        raise InputError(f"up_axis: z does not go with type {file_type}, which is always Y up")
    right, wrong = ("size_m", "size_mm") if is_gltf else ("size_mm", "size_m")
    if wrong in found:
        unit = "metres" if is_gltf else "millimetres"
        raise InputError(f"{wrong}: type {file_type} is in {unit}; send {right}")
    size = found.get(right, default.size)
    return Placement(
        default.up_axis if up_axis == "auto" else up_axis,
        size or None,
        found.get("origin", default.origin),
    )


def read_options(raw: Mapping[str, object], settings: Settings, mesh: str | None = None) -> Options:
    """Return the parameters of a job: the request's, then the configured defaults.

    Args:
        raw: fields of the request.
        settings: the server's settings.
        mesh: MD5 of the mesh file in the request; None: it has none.

    Raises:
        InputError: a value makes no sense, or not with another one; names the fields.
    """
    found = _with_preset(raw, settings, has_mesh=mesh is not None)
    _resolve_alternatives(found)
    compress = found.get("compress", settings.export.compress)
    _check_combinations(found, settings, compress, has_mesh=mesh is not None)
    file_type = found.get("type", BY_NAME["type"].default)
    values = {
        field.name: found.get(field.name, _configured(field, settings))
        if field.applies(has_mesh=mesh is not None, file_type=file_type)
        else field.default
        for field in FIELDS
    }
    values |= _solid(found, values, has_mesh=mesh is not None)
    if mesh is None:
        values["up_axis"] = "auto"  # that of the file, see `read_delivery`
    values["remove_background"] = _REMOVALS[values["remove_background"]]
    values = _with_levels(_capped(values, settings), settings)
    seed: int = values["seed"]
    if "seed" in raw and raw["seed"] is None:
        seed = RANDOM_SEED
    is_random = seed == RANDOM_SEED

    def sampler(stage: Stage) -> SamplerOptions:
        return SamplerOptions(**{name: values[f"{stage}_{name}"] for name in _SAMPLER_FIELDS})

    return Options(
        seed=secrets.randbelow(MAX_SEED + 1) if is_random else seed,
        is_seed_random=is_random,
        ss=sampler("ss"),
        shape=sampler("shape"),
        tex=sampler("tex"),
        mesh=mesh,
        **{name: values[name] for name in _OPTION_FIELDS},
    )


def read_export(raw: Mapping[str, object], options: Options, settings: Settings) -> Options:
    """Return a job's parameters with those of an export call.

    Args:
        raw: fields of the export call; fields of other groups are ignored.
        options: parameters of the job, which may be older than the settings.
        settings: the server's settings.

    Raises:
        InputError: a value makes no sense, or not with another one; names the fields.
    """
    found = _with_preset(raw, settings, has_mesh=options.mesh is not None)
    compress = found.get("compress", options.compress)
    _check_combinations(found, settings, compress, has_mesh=options.mesh is not None)
    file_type = found.get("type", BY_NAME["type"].default)
    changed: dict[str, Any] = {}
    for name in EXPORT_FIELDS:
        field = BY_NAME[name]
        if not field.applies(has_mesh=options.mesh is not None, file_type=file_type):
            changed[name] = field.default
        else:
            changed[name] = found.get(name, getattr(options, name))
    changed |= _solid(found, changed, has_mesh=options.mesh is not None)
    if "decimation_target" in found and "lods" not in found:
        changed["lods"] = ()  # the job's
    return dataclasses.replace(options, **_with_levels(_capped(changed, settings), settings))


def _with_levels(values: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the values with those of the finest level of detail, if there are levels."""
    lods: tuple[int, ...] = values["lods"]
    if not lods:
        return values
    limit = maximum(BY_NAME["decimation_target"], settings)
    lods = tuple(dict.fromkeys(lods if limit is None else (min(each, limit) for each in lods)))
    return {**values, "lods": lods, "decimation_target": lods[0]}


def _check_combinations(
    found: Mapping[str, Any], settings: Settings, compress: str | None, *, has_mesh: bool
) -> None:
    """Check fields of the request that exclude each other.

    Args:
        found: fields of the request.
        settings: the server's settings.
        compress: of the request, or the default.
        has_mesh: whether the request or the job has a mesh.

    Raises:
        InputError: names both.
    """
    file_type = found.get("type", BY_NAME["type"].default)
    for name, types in _TYPES_WITH.items():
        if not found.get(name):
            continue
        if found.get("texture") is False:
            raise InputError(f"{name}: needs a texture, but texture is false")
        if file_type not in types:
            raise InputError(f"{name}: type {file_type} has no place for it")
        if settings.export.backend == "upstream" and not has_mesh:
            raise InputError(f"{name}: not with export.backend: upstream, which this server has")
    _check_levels(found, has_mesh=has_mesh)
    if found.get("normal_map"):
        if has_mesh:
            raise InputError("normal_map: not with a mesh, which has no finer surface")
        if compress == "draco" and file_type == "glb":
            raise InputError("normal_map: not with compress: draco, which has no tangents")


def _check_levels(found: Mapping[str, Any], *, has_mesh: bool) -> None:
    lods: tuple[int, ...] | None = found.get("lods")
    if not lods:
        return
    if has_mesh:
        raise InputError("lods: not with a mesh, whose faces are kept")
    if found.get("decimation_target", lods[0]) != lods[0]:
        raise InputError("lods: its first number is the decimation_target; send only one of them")


def _solid(
    found: Mapping[str, Any], values: Mapping[str, Any], *, has_mesh: bool
) -> dict[str, Any]:
    """Return what a request for a solid changes in the parameters, and check that it may.

    Args:
        found: fields of the request.
        values: the parameters.
        has_mesh: whether they are for a mesh of the client.

    Raises:
        InputError: fields contradict each other; names both.
    """
    if has_mesh and found.get("solid"):
        raise InputError("solid: does not go with mesh, which is never remeshed")
    if not values["solid"]:
        if found.get("min_wall_mm"):
            raise InputError("min_wall_mm: goes with solid: true only")
        return {"min_wall_mm": 0.0}
    if found.get("remesh") is False:
        raise InputError("solid: true does not go with remesh: false")
    if found.get("compress"):
        raise InputError(f"solid: true does not go with compress: {found['compress']}")
    changes: dict[str, Any] = {"remesh": True, "compress": None}
    if "min_wall_mm" in found:
        is_gltf = found.get("type", BY_NAME["type"].default) in _IN_METRES
        size_mm = 1000 * found.get("size_m", 0) if is_gltf else found.get("size_mm", 0)
        share = found["min_wall_mm"] / (size_mm or PRINT_SIZE_MM)
        changes["min_wall_mm"] = round(share * PRINT_SIZE_MM, 9)
    return changes


def fields_of(options: Options) -> dict[str, object]:
    """Return the fields of a request for these parameters; the mesh is left out."""
    samplers = {
        f"{stage}_{name}": value
        for stage in STAGES
        for name, value in dataclasses.asdict(getattr(options, stage)).items()
        if value is not None
    }
    others = {
        name: getattr(options, name)
        for name in (
            "seed",
            "pipeline_type",
            "max_num_tokens",
            "decimation_target",
            "texture_size",
            "alpha_mode",
            "texture_format",
            "remesh",
        )
    }
    given: dict[str, object] = {"geo_rotation": options.geo_rotation} if options.mesh else {}
    if options.up_axis != "auto":
        given["up_axis"] = options.up_axis
    if options.uv != "new":
        given["uv"] = options.uv
    if options.solid:
        given |= {"solid": True, "min_wall_mm": options.min_wall_mm}
    if options.occlusion:
        given["occlusion"] = True
    if options.normal_map:
        given["normal_map"] = True
    if options.lods:
        given["lods"] = list(options.lods)
    if options.depth != "auto":
        given["depth"] = options.depth
    if options.back != "auto":
        given["back"] = options.back
    if options.remove_background is not True:
        given["remove_background"] = options.remove_background == "always"
    return {**others, "compress": options.compress or "none", **samplers, **given}


def _configured(field: RequestField, settings: Settings) -> Any:
    """Return the value of a field that the request leaves out."""
    if field.setting is None:
        return field.default
    section, key = field.setting.split(".")
    return getattr(getattr(settings, section), key)


def maximum(field: RequestField, settings: Settings) -> int | None:
    """Return the greatest value of a field on this server; None: that of the field itself."""
    if field.cap is None:
        return None
    section, key = field.cap.split(".")
    return getattr(getattr(settings, section), key)


def _capped(values: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the values with those above the server's maximum lowered to it."""
    limits = {name: maximum(BY_NAME[name], settings) for name in values}
    return {
        name: value if (limit := limits[name]) is None else min(value, limit)
        for name, value in values.items()
    }


def _resolve_alternatives(found: dict[str, Any]) -> None:
    """Let fields that are another way to set a field set it, where it is absent."""
    if "resolution" in found:
        found.setdefault("pipeline_type", _PIPELINE_TYPES[found["resolution"]])
    if "no_rembg" in found:
        found.setdefault("remove_background", not found["no_rembg"])
    for stage in ("ss", "shape"):  # Hunyuan3D has one stage where TRELLIS.2 has two
        if "guidance_scale" in found:
            found.setdefault(f"{stage}_guidance_scale", found["guidance_scale"])
        if "num_inference_steps" in found:
            found.setdefault(f"{stage}_sampling_steps", found["num_inference_steps"])
