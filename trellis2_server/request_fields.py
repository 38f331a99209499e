"""The fields of a generation request, declared once.

Made from `FIELDS`: the parser (`parameters`), the API's schemas, the client's arguments, the
defaults of settings, the bounds, texts and defaults of the page's form, and the tables in the
documentation. Lists that name fields by hand, such as the records in `parameters`, the client's
`Options` and the groups of the page's form, are described in docs/extending.md. This module needs
the standard library only, so that the client, which imports nothing else of the server, can share
it.

Does not know: how a raw value is read, HTTP, settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["integer", "integers", "number", "boolean", "interval", "string"]
#: In the order in which lists for people have them.
Group = Literal[
    "general", "voxels", "preview", "export", "file", "mesh", "hunyuan", "sampler", "delivery"
]  # fmt: skip

FileType = Literal["glb", "obj", "ply", "stl", "obj_zip", "gltf_zip", "3mf", "usdz"]
UpAxis = Literal["auto", "y", "z"]
Origin = Literal["center", "floor"]
PipelineType = Literal["512", "1024", "1024_cascade", "1536_cascade"]
Resolution = Literal[512, 1024, 1536]
TextureSize = Literal[256, 512, 1024, 2048, 4096, 8192]
AlphaMode = Literal["auto", "OPAQUE", "MASK", "BLEND"]
TextureFormat = Literal["auto", "webp", "png", "jpeg"]
Compression = Literal["meshopt", "draco"]
UvSource = Literal["new", "keep"]
Back = Literal["auto", "mirror", "fill"]
#: The keys of `purposes.PURPOSES`.
Preset = Literal["game", "web", "print", "ar", "blender", "archive"]
PictureView = Literal["front", "three_quarter", "back"]
#: How several pictures of one object are used.
MultiImage = Literal["auto", "stochastic", "multidiffusion", "concat", "mean"]
#: Side of the object that a picture shows, in the order in which a request's pictures stand. Left
#: is the object's own: the side that the front view has on its right.
Side = Literal["front", "left", "back", "right"]
Stage = Literal["ss", "shape", "tex"]
#: True: of a picture that is no cut-out, which is what requests get that leave the field out.
#: "always": of a cut-out, too, which is what `true` in a request means. False: not at all.
RemoveBackground = bool | Literal["always"]

MAX_SEED: Final = 2**32 - 1
#: How many levels of detail a file has, if it has some.
LEAST_LEVELS: Final = 2
MOST_LEVELS: Final = 8
#: Longest edge of a model for `min_wall_mm` where the request does not set its size, millimetres.
PRINT_SIZE_MM: Final = 100.0
RANDOM_SEED: Final = -1
#: Most pictures of one request; and of one whose `multi_image` is concat.
MAX_PICTURES: Final = 8
MAX_CONCATENATED: Final = 4
SIDES: Final[tuple[Side, ...]] = get_args(Side)
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)

#: File type → extension of its file.
EXTENSIONS: Final[Mapping[FileType, str]] = {
    "glb": "glb",
    "obj": "obj",
    "ply": "ply",
    "stl": "stl",
    "obj_zip": "zip",
    "gltf_zip": "gltf.zip",
    "3mf": "3mf",
    "usdz": "usdz",
}


@dataclass(frozen=True, slots=True)
class RequestField:
    """One field of a generation request.

    Attributes:
        name: name of the field.
        kind: type of the value; an interval is two numbers, from and to, between 0 and 1, integers
            are a list of them.
        description: what it does, in sentences; the first one stands alone.
        group: what it belongs to. Fields of "export" change only how a shape and its material
            become a file, fields of "file" only how the model lies in it, fields of "delivery"
            only what is sent back.
        aliases: names used by other clients; `name` wins over them, earlier over later ones.
        bounds: least and greatest value of a number, or of each integer; a number needs them, or a
            reader of its own.
        choices: allowed values; none: any of the kind.
        word: a word that is a value too, beside numbers.
        is_nullable: whether null, or the word "none", is a value too.
        setting: key of the setting that holds the server's default, `section.key`.
        cap: key of the setting that lowers the greatest value for all requests.
        default: value where neither the request nor a setting has one, and of a field that
            does not apply. None: nothing, or the checkpoint's value.
        mesh: whether it applies to requests with a mesh, and to those without.
        is_glb_only: whether it applies to the file type "glb" only.
    """

    name: str
    kind: Kind
    description: str
    group: Group
    aliases: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None
    choices: tuple[str | int, ...] = ()
    word: str | None = None
    is_nullable: bool = False
    setting: str | None = None
    cap: str | None = None
    default: Any = None
    mesh: Literal["allowed", "required", "excluded"] = "allowed"
    is_glb_only: bool = False

    @property
    def summary(self) -> str:
        """The description's first sentence, as a phrase: "maximum number of faces"."""
        sentence = self.description.split(". ")[0].removesuffix(".")
        return sentence if sentence[1:2].isupper() else sentence[0].lower() + sentence[1:]

    def applies(self, *, has_mesh: bool, file_type: str) -> bool:
        """Whether the field changes anything in a request of that kind."""
        if self.is_glb_only and file_type != "glb":
            return False
        return self.mesh == "allowed" or has_mesh == (self.mesh == "required")


def _sampler(
    stage: Stage, upstream: str, words: str, guidance_scale: float
) -> tuple[RequestField, ...]:
    """Return the five fields of a stage, with the names that use upstream's prefix for it."""
    omitted = "Omitted: the checkpoint's value."

    def aliases(*names: str) -> tuple[str, ...]:
        own = f"{stage}_{names[0]}"
        every = (f"{prefix}_{name}" for name in names for prefix in (stage, upstream))
        return tuple(dict.fromkeys(name for name in every if name != own))

    return (
        RequestField(
            f"{stage}_guidance_scale",
            "number",
            f"Guidance scale of the {words} stage. {guidance_scale} unless configured.",
            "sampler",
            aliases("guidance_scale", "guidance_strength"),
            bounds=(0, 20),
            setting=f"generation.{stage}_guidance_scale",
            default=guidance_scale,
        ),
        RequestField(
            f"{stage}_sampling_steps",
            "integer",
            f"Sampling steps of the {words} stage. 12 unless configured.",
            "sampler",
            # The last one is what Hunyuan3D's texturing calls its steps.
            (*aliases("sampling_steps"), *(("diffusion_steps",) if stage == "tex" else ())),
            bounds=(1, 100),
            setting=f"generation.{stage}_sampling_steps",
            default=12,
        ),
        RequestField(
            f"{stage}_guidance_rescale",
            "number",
            f"Guidance rescale of the {words} stage. {omitted}",
            "sampler",
            aliases("guidance_rescale"),
            bounds=(0, 1),
        ),
        RequestField(
            f"{stage}_guidance_interval",
            "interval",
            f"Part of the sampling time with guidance in the {words} stage, from and to. {omitted}",
            "sampler",
            aliases("guidance_interval"),
        ),
        RequestField(
            f"{stage}_rescale_t",
            "number",
            f"Time rescale of the {words} stage. {omitted}",
            "sampler",
            aliases("rescale_t"),
            bounds=(1, 20),
        ),
    )


#: All fields but the uploads and the names of jobs.
FIELDS: Final = (
    RequestField(
        "seed",
        "integer",
        "Random seed; -1 picks a random one. The X-Seed header reports the seed that was used.",
        "general",
        bounds=(RANDOM_SEED, MAX_SEED),
        setting="generation.seed",
        default=42,
    ),
    RequestField(
        "texture",
        "boolean",
        "true: reply with the textured model. false: make no texture before it is requested. "
        "Omitted: reply with the untextured model, and make its texture in the background.",
        "delivery",
    ),
    RequestField(
        "type",
        "string",
        "File type of the model. A textured obj or ply has vertex colours, an obj_zip has "
        "textures, a 3mf the base colour as a texture, an stl has neither. gltf_zip is glTF with "
        "its binary and its textures as files of their own. usdz is for AR on iPhones and for USD.",
        "delivery",
        choices=get_args(FileType),
        default="glb",
    ),
    RequestField(
        "preset",
        "string",
        "What the model is for. Sets the type, the number of faces, the textures and the placement "
        "that suit it, where the request leaves them out.",
        "delivery",
        choices=get_args(Preset),
    ),
    RequestField(
        "remove_background",
        "boolean",
        "Remove the background. true: also that of a picture with transparency. false: the whole "
        "frame is the object. Omitted: a cut-out, whose background is transparent, is used as it "
        "is, and the background of any other picture is removed.",
        "general",
    ),
    RequestField(
        "no_rembg", "boolean", "Opposite of remove_background, which takes precedence.", "general"
    ),
    RequestField(
        "multi_image",
        "string",
        "How several pictures of one object are used. stochastic: each step sees one of them, in "
        "turn. multidiffusion: each step sees all, and takes the mean of what they predict. concat "
        "(at most 4 pictures): all features at once. mean: the mean of the features. auto: "
        "stochastic; multidiffusion in a stage with fewer steps than pictures.",
        "general",
        choices=get_args(MultiImage),
        default="auto",
    ),
    *_sampler("ss", "ss", "sparse-structure", 7.5),
    *_sampler("shape", "shape_slat", "shape", 7.5),
    *_sampler("tex", "tex_slat", "texture", 1.0),
    RequestField(
        "guidance_scale",
        "number",
        "Guidance scale of the first two stages, unless a stage has its own. Sent by clients of "
        "Hunyuan3D.",
        "hunyuan",
        bounds=(0, 20),
    ),
    RequestField(
        "num_inference_steps",
        "integer",
        "Sampling steps of the first two stages, unless a stage has its own. Sent by clients of "
        "Hunyuan3D.",
        "hunyuan",
        bounds=(1, 100),
    ),
    RequestField(
        "geo_rotation",
        "number",
        "Degrees by which the mesh is turned before the picture is projected onto its front. The "
        "front is +Z in its file, -Y if Z points up. Positive turns counter-clockwise seen from "
        "above. The reply is not turned.",
        "mesh",
        default=0.0,
        mesh="required",
    ),
    RequestField(
        "pipeline_type",
        "string",
        "Voxel resolution.",
        "voxels",
        choices=get_args(PipelineType),
        setting="generation.pipeline_type",
        default="1024_cascade",
    ),
    RequestField(
        "resolution",
        "integer",
        "Alternative to pipeline_type. 512, 1024 and 1536 select 512, 1024_cascade and "
        "1536_cascade.",
        "voxels",
        choices=get_args(Resolution),
    ),
    RequestField(
        "max_num_tokens",
        "integer",
        "Maximum number of tokens in a cascade.",
        "voxels",
        bounds=(4_096, 262_144),
        setting="generation.max_num_tokens",
        default=49_152,
    ),
    RequestField(
        "depth",
        "number",
        "How deep the preview engine makes the object, from 0 (flat) to 1 (round). auto decides it "
        "by the object. TRELLIS.2 does not use it.",
        "preview",
        bounds=(0, 1),
        word="auto",
        default="auto",
        mesh="excluded",
    ),
    RequestField(
        "back",
        "string",
        "What the preview engine puts on the side that the picture does not show. mirror: the "
        "picture's colours. fill: a texture in the manner of the object's outer parts, for objects "
        "with a face. auto decides it by the object. TRELLIS.2 does not use it.",
        "preview",
        choices=get_args(Back),
        default="auto",
    ),
    RequestField(
        "decimation_target",
        "integer",
        "Maximum number of faces. A closed surface stays closed: if that needs more faces, it has "
        "more, and a warning says so.",
        "export",
        ("glb_decimation_target", "face_count"),
        bounds=(1_000, 16_777_216),
        setting="export.glb_decimation_target",
        cap="export.max_decimation_target",
        default=1_000_000,
    ),
    RequestField(
        "remesh",
        "boolean",
        "Wrap the surface in one watertight shell at the resolution of its voxels. false: open "
        "surfaces stay open. A mesh of the request is never remeshed.",
        "export",
        setting="export.remesh",
        # Upstream's demo remeshes. TRELLIS.2's surfaces may be open, with sheets of no thickness,
        # and a file that shows them as they were generated is ready sooner.
        default=False,
        mesh="excluded",
    ),
    RequestField(
        "solid",
        "boolean",
        "Make a solid for printing. It is remeshed unless it is one already, and checked to be "
        "closed, manifold, wound outward, without inner shells and not touching itself; a warning "
        "names what it is not.",
        "export",
        default=False,
        mesh="excluded",
    ),
    RequestField(
        "min_wall_mm",
        "number",
        "Warn about walls of a solid that are thinner, millimetres. At the size of the file; 100 "
        "mm where size_mm or size_m do not set one. 0: no warning. Needs solid.",
        "export",
        bounds=(0, 1000),
        default=0.0,
        mesh="excluded",
    ),
    RequestField(
        "texture_size",
        "integer",
        "Edge length of the textures in pixels. Other values select the nearest power of two.",
        "export",
        ("glb_texture_size",),
        choices=get_args(TextureSize),
        setting="export.glb_texture_size",
        cap="export.max_texture_size",
        default=4096,
    ),
    RequestField(
        "alpha_mode",
        "string",
        "glTF alpha mode. auto chooses it by the model's opacity.",
        "export",
        choices=get_args(AlphaMode),
        setting="export.alpha_mode",
        default="auto",
    ),
    RequestField(
        "texture_format",
        "string",
        "Image format of the textures in the GLB. auto is JPEG, and PNG for a base colour with "
        "alpha. webp needs a program that knows EXT_texture_webp.",
        "export",
        choices=get_args(TextureFormat),
        setting="export.texture_format",
        default="auto",
    ),
    RequestField(
        "compress",
        "string",
        "Geometry compression in the GLB. Only for type glb. Of a mesh of the request, meshopt "
        "keeps the positions and the order of the faces, draco does not.",
        "export",
        choices=get_args(Compression),
        is_nullable=True,
        setting="export.compress",
        is_glb_only=True,
    ),
    RequestField(
        "uv",
        "string",
        "Texture coordinates of a mesh of the request. new: those of a new layout. keep: its own, "
        "which must be inside the square and must not overlap.",
        "export",
        choices=get_args(UvSource),
        default="new",
        mesh="required",
    ),
    RequestField(
        "occlusion",
        "boolean",
        "Bake ambient occlusion into R of the texture that has roughness and metallic in G and B. "
        "For types with such a texture: glb, gltf_zip and usdz.",
        "export",
        default=False,
    ),
    RequestField(
        "normal_map",
        "boolean",
        "Bake a tangent-space normal map of the surface before decimation, and write tangents. For "
        "types with such a texture: glb, gltf_zip, usdz and obj_zip; not with draco. A mesh of the "
        "request has no finer surface.",
        "export",
        default=False,
        mesh="excluded",
    ),
    RequestField(
        "lods",
        "integers",
        "Maximum numbers of faces of two to eight levels of detail, descending. The first level is "
        "the model, in place of decimation_target. All share one texture, in one file with "
        "MSFT_lod. For glb and gltf_zip. Faces of a mesh of the request are kept.",
        "export",
        bounds=(100, 16_777_216),
        default=(),
        mesh="excluded",
    ),
    RequestField(
        "up_axis",
        "string",
        "Axis that points up in the file; in a request with a mesh, in the file of that mesh. Of a "
        "model, auto is z for stl and 3mf, y for other types; a glb, a gltf_zip and a usdz are "
        "always Y up. Of a mesh, auto is z for STL, unless this server wrote it with Y up, and y "
        "for other formats.",
        "file",
        choices=get_args(UpAxis),
        default="auto",
    ),
    RequestField(
        "size_mm",
        "number",
        "Longest edge of the model in an stl, 3mf, obj, ply or obj_zip, millimetres. 0 is the "
        "model's own size, a cube of edge 1. Omitted: 100 for stl and 3mf, own size for others.",
        "file",
        bounds=(0, 100_000),
    ),
    RequestField(
        "size_m",
        "number",
        "Longest edge of the model in a glb, gltf_zip or usdz, metres. 0 is the model's own size, "
        "which is what an omitted one selects.",
        "file",
        bounds=(0, 10_000),
    ),
    RequestField(
        "origin",
        "string",
        "What of the model lies at the origin of the file: the middle of its box, or that of the "
        "box's floor. Omitted: floor for stl and 3mf, the model's own origin for others.",
        "file",
        choices=get_args(Origin),
    ),
)

BY_NAME: Final[Mapping[str, RequestField]] = {field.name: field for field in FIELDS}
