"""The options of a generation: names, types and bounds.

They are made from `trellis2_server.request_fields`, the only module of the server that the client
imports: it needs nothing but the standard library.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence  # noqa: TC003 - `get_type_hints` needs it
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypedDict, get_args

from trellis2_server.client.errors import UsageError

# `typing.get_type_hints` of `Options` needs these at runtime.
from trellis2_server.request_fields import (
    EXTENSIONS,
    FIELDS,
    MAX_SEED,
    AlphaMode,
    Back,
    Compression,
    FileType,
    Group,
    Kind,
    Origin,
    PipelineType,
    RequestField,
    Resolution,
    TextureFormat,
    TextureSize,
    UpAxis,
    UvSource,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "EXTENSIONS",
    "FILE_OPTIONS",
    "MAX_SEED",
    "OPTIONS",
    "FileType",
    "Option",
    "Options",
    "check_names",
]

#: What a nullable field is called on a command line where it is null.
_NULL: Final = "none"


class Options(TypedDict, total=False):
    """Options of `Client.generate`; the server has a default for each.

    The server clamps numbers that are out of bounds. Type checkers need these names here; a test
    holds them against `FIELDS`.
    """

    seed: int
    remove_background: bool
    ss_guidance_scale: float
    ss_sampling_steps: int
    ss_guidance_rescale: float
    ss_guidance_interval: tuple[float, float]
    ss_rescale_t: float
    shape_guidance_scale: float
    shape_sampling_steps: int
    shape_guidance_rescale: float
    shape_guidance_interval: tuple[float, float]
    shape_rescale_t: float
    tex_guidance_scale: float
    tex_sampling_steps: int
    tex_guidance_rescale: float
    tex_guidance_interval: tuple[float, float]
    tex_rescale_t: float
    guidance_scale: float
    num_inference_steps: int
    geo_rotation: float
    pipeline_type: PipelineType
    resolution: Resolution
    max_num_tokens: int
    depth: float | Literal["auto"]
    back: Back
    decimation_target: int
    remesh: bool
    solid: bool
    min_wall_mm: float
    texture_size: TextureSize
    alpha_mode: AlphaMode
    texture_format: TextureFormat
    compress: Compression | Literal["none"]
    uv: UvSource
    occlusion: bool
    normal_map: bool
    lods: Sequence[int]
    up_axis: UpAxis
    size_mm: float
    size_m: float
    origin: Origin


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        name: field of the request.
        kind: type of the value; an interval is two numbers, from and to, between 0 and 1.
        meaning: what it does, as a phrase.
        bounds: least and greatest value of a number; None: any.
        choices: allowed values; none: any of the kind.
        word: a word that is allowed beside numbers.
    """

    name: str
    kind: Kind
    meaning: str
    bounds: tuple[float, float] | None = None
    choices: tuple[str | int, ...] = ()
    word: str | None = None


def _option(field: RequestField) -> Option:
    choices = (*field.choices, _NULL) if field.is_nullable else field.choices
    return Option(field.name, field.kind, field.summary, field.bounds, choices, field.word)


#: Every option, in groups. `texture` and `type` are arguments of their own, and `no_rembg` is the
#: opposite of another option.
OPTIONS: Final = tuple(
    _option(field)
    for group in get_args(Group)
    for field in FIELDS
    if field.group == group and group != "delivery" and field.name != "no_rembg"
)
#: Options that say how the model lies in a file.
FILE_OPTIONS: Final = tuple(field.name for field in FIELDS if field.group == "file")
_NAMES: Final = frozenset(option.name for option in OPTIONS)


def check_names(options: Mapping[str, object]) -> None:
    """Check that each of these is an option; the server would ignore others.

    Raises:
        UsageError: a name is unknown; suggests a similar one.
    """
    for name in options:
        if name not in _NAMES:
            near = difflib.get_close_matches(name, _NAMES, 1)
            raise UsageError(f"{name}: no such option" + (f"; {near[0]}?" if near else ""))
