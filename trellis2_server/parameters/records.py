"""The records that a request is parsed into.

The `repr` of `Options` is part of the keys of stored results, and its fields are stored with each
job: renaming or reordering classes or fields here loses what servers have on disk.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, Literal

# Stored records are validated against these annotations, which needs them at runtime.
from trellis2_server.request_fields import (
    PRINT_SIZE_MM,
    AlphaMode,
    Back,
    Compression,
    FileType,
    Origin,
    PictureView,
    PipelineType,
    RemoveBackground,
    TextureFormat,
    UpAxis,
    UvSource,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Fields of `Options` that are newer than stored keys: the `repr` has them only if they are set.
_NEWER: Final = frozenset(
    {
        "up_axis",
        "uv",
        "solid",
        "min_wall_mm",
        "occlusion",
        "normal_map",
        "lods",
        "depth",
        "back",
    }
)


@dataclass(frozen=True, slots=True)
class SamplerOptions:
    """Sampler of one stage; None: the checkpoint's value.

    Attributes:
        guidance_scale: classifier-free guidance, 0 … 20; 1: none.
        sampling_steps: 1 … 100.
        guidance_rescale: 0 … 1.
        guidance_interval: part of the sampling time [0, 1] with guidance, from and to.
        rescale_t: 1 … 20.
    """

    guidance_scale: float
    sampling_steps: int
    guidance_rescale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    rescale_t: float | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """Parameters that change the result of a job, apart from its picture.

    Attributes:
        seed: 0 … 2³²-1.
        is_seed_random: the server picked the seed; the job then matches no other request.
        ss: sampler of the sparse structure.
        shape: sampler of the shape.
        tex: sampler of the texture.
        pipeline_type: resolution of the voxels, and whether a cascade reaches it.
        max_num_tokens: limit of a cascade.
        decimation_target: maximum number of faces.
        remesh: whether to wrap the surface in a watertight shell.
        texture_size: edge length of the textures, pixels.
        alpha_mode: glTF alpha mode, or "auto".
        texture_format: image format of the textures in the GLB.
        compress: geometry compression in the GLB.
        remove_background: whether to remove the background, and of which pictures.
        mesh: MD5 of the mesh file to texture; None: generate a shape.
        geo_rotation: degrees by which that mesh is turned before it is textured.
        up_axis: axis of that mesh's file that points up; "auto" without a mesh.
        uv: whether that mesh gets new texture coordinates or keeps its own.
        solid: whether to make a solid for printing; `remesh` is then true.
        min_wall_mm: thickness of walls of a solid below which there is a warning, millimetres of a
            model whose longest edge has 100 mm; 0: none.
        occlusion: whether to bake ambient occlusion.
        normal_map: whether to bake the normals of the surface before decimation.
        lods: maximum numbers of faces of the levels of detail, descending; none: one level.
        depth: how deep the preview engine makes the object, 0 (flat) … 1 (round), or "auto".
        back: what the preview engine puts on the side that the picture does not show.
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
    remove_background: RemoveBackground
    mesh: str | None = None
    geo_rotation: float = 0.0
    up_axis: UpAxis = "auto"
    uv: UvSource = "new"
    solid: bool = False
    min_wall_mm: float = 0.0
    occlusion: bool = False
    normal_map: bool = False
    lods: tuple[int, ...] = ()
    depth: float | Literal["auto"] = "auto"
    back: Back = "auto"

    def __repr__(self) -> str:
        """Return all fields; those that stored keys do not have, only if they are set."""
        shown = (
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name not in _NEWER or getattr(self, field.name) != field.default
        )
        return f"Options({', '.join(shown)})"


@dataclass(frozen=True, slots=True)
class Placement:
    """How a model lies in a file.

    Attributes:
        up_axis: axis that points up.
        size: longest edge, in the file's unit; None: the model's own size.
        origin: what lies at the origin: the middle of the model's box, or of that box's floor.
            None: the model's own origin.
    """

    up_axis: Literal["y", "z"] = "y"
    size: float | None = None
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A file type with another placement than its default.

    Attributes:
        type: the type.
        placement: how the model lies in the file.
    """

    type: FileType
    placement: Placement


#: What a file is: a file type with its default placement, or with another one.
FileForm = FileType | PlacedFile


@dataclass(frozen=True, slots=True)
class PictureForm:
    """A picture of a model.

    Attributes:
        kind: one view, as PNG, or a turn around the model, as WebP.
        size_px: edge, pixels.
        view: from where; a turntable starts with a three-quarter view.
    """

    kind: Literal["thumbnail", "turntable"]
    size_px: int
    view: PictureView = "three_quarter"


#: What is made from a GLB.
DerivedForm = FileForm | PictureForm

#: As slicers expect files: Z up, millimetres, standing on the bed.
_TO_PRINT: Final = Placement("z", PRINT_SIZE_MM, "floor")
#: Default placements; a type that is not here has `Placement()`.
_DEFAULT_PLACEMENTS: Final[Mapping[FileType, Placement]] = {"stl": _TO_PRINT, "3mf": _TO_PRINT}


def default_placement(file_type: FileType) -> Placement:
    """Return how a model lies in files of that type unless a request says otherwise."""
    return _DEFAULT_PLACEMENTS.get(file_type, Placement())


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a request wants in its reply; it does not change the result.

    Attributes:
        texture: True: wait for the textured model. False: make no texture. None: reply with the
            untextured model, and make its texture in the background.
        type: file type of the model.
        placement: how the model lies in the file; None: as usual for the type.
    """

    texture: bool | None
    type: FileType
    placement: Placement | None = None

    @property
    def form(self) -> FileForm:
        """The file type with the placement."""
        return self.type if self.placement is None else PlacedFile(self.type, self.placement)
