"""The options of a generation, as the server's API has them, in one table.

The command line's arguments are made of it, and the library's names are checked against it.
The server has the same table with what it takes to read the values (`config.FIELDS`), which
is not imported: it brings the server's packages. A test holds the two together.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypedDict

from trellis2_server.client.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

FileType = Literal["glb", "obj", "ply", "stl", "obj_zip"]
Kind = Literal["integer", "number", "boolean", "interval", "string"]

#: What the name of a file of that type ends with.
EXTENSIONS: Final[Mapping[FileType, str]] = {
    "glb": "glb",
    "obj": "obj",
    "ply": "ply",
    "stl": "stl",
    "obj_zip": "zip",
}
MAX_SEED: Final = 2**32 - 1


class Options(TypedDict, total=False):
    """Options of `Client.generate`; what is left out is as the server is configured.

    The server clamps a number that is out of range.
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
    pipeline_type: Literal["512", "1024", "1024_cascade", "1536_cascade"]
    resolution: Literal[512, 1024, 1536]
    max_num_tokens: int
    decimation_target: int
    remesh: bool
    texture_size: Literal[256, 512, 1024, 2048, 4096, 8192]
    alpha_mode: Literal["auto", "OPAQUE", "MASK", "BLEND"]
    texture_format: Literal["auto", "webp", "png", "jpeg"]
    compress: Literal["meshopt", "draco", "none"]


@dataclass(frozen=True, slots=True)
class Option:
    """One of them.

    Attributes:
        name: the field of the request.
        kind: of its value; an interval is two numbers between 0 and 1.
        meaning: in a few words.
        bounds: of a number; None: any.
        choices: the values there are; none: any of the kind.
    """

    name: str
    kind: Kind
    meaning: str
    bounds: tuple[float, float] | None = None
    choices: tuple[str | int, ...] = ()


def _sampler(prefix: str, stage: str) -> tuple[Option, ...]:
    return (
        Option(f"{prefix}_guidance_scale", "number", f"guidance of the {stage} stage", (0, 20)),
        Option(f"{prefix}_sampling_steps", "integer", f"steps of the {stage} stage", (1, 100)),
        Option(f"{prefix}_guidance_rescale", "number", f"its rescale, {stage} stage", (0, 1)),
        Option(
            f"{prefix}_guidance_interval", "interval", f"part of the time guided, {stage} stage"
        ),
        Option(f"{prefix}_rescale_t", "number", f"time rescale of the {stage} stage", (1, 20)),
    )


#: Every option but `texture` and `type`, which say what is sent back.
OPTIONS: Final = (
    Option("seed", "integer", "-1: a random one", (-1, MAX_SEED)),
    Option("remove_background", "boolean", "otherwise the whole frame is the object"),
    Option(
        "pipeline_type",
        "string",
        "resolution of the voxels",
        choices=("512", "1024", "1024_cascade", "1536_cascade"),
    ),
    Option("resolution", "integer", "another way to say pipeline_type", choices=(512, 1024, 1536)),
    Option("max_num_tokens", "integer", "tokens that a cascade may use", (4_096, 262_144)),
    Option("decimation_target", "integer", "faces at most", (1_000, 16_777_216)),
    Option("remesh", "boolean", "wrap the model in one watertight shell"),
    Option(
        "texture_size",
        "integer",
        "edge of the textures, pixels",
        choices=(256, 512, 1024, 2048, 4096, 8192),
    ),
    Option("alpha_mode", "string", "glTF alpha mode", choices=("auto", "OPAQUE", "MASK", "BLEND")),
    Option(
        "texture_format",
        "string",
        "image format in the GLB",
        choices=("auto", "webp", "png", "jpeg"),
    ),
    Option(
        "compress",
        "string",
        "geometry compression in the GLB",
        choices=("meshopt", "draco", "none"),
    ),
    Option("geo_rotation", "number", "degrees by which the mesh is turned before the picture"),
    Option("guidance_scale", "number", "guidance of the first two stages", (0, 20)),
    Option("num_inference_steps", "integer", "steps of the first two stages", (1, 100)),
    *_sampler("ss", "sparse-structure"),
    *_sampler("shape", "shape"),
    *_sampler("tex", "texture"),
)
_NAMES: Final = frozenset(option.name for option in OPTIONS)


def check_names(options: Mapping[str, object]) -> None:
    """Passes if each of these is an option; the server would ignore the others.

    Raises:
        UsageError: one is not; says which there is of a similar name.
    """
    for name in options:
        if name not in _NAMES:
            near = difflib.get_close_matches(name, _NAMES, 1)
            raise UsageError(f"{name}: no such option" + (f"; {near[0]}?" if near else ""))
