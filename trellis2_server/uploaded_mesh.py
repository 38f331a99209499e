"""Uploaded meshes: the steps of `pipeline` that are other for them.

    read_mesh       file → scene and mesh, and the untextured GLB
    textured_mesh   → the textured GLB

Does not know: how a mesh is read, engines, jobs, HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from trellis2_server import __version__
from trellis2_server.decoders import meshes
from trellis2_server.inputs.meshes.visibility import compact
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from trellis2_server.decoders import DecoderPool
    from trellis2_server.inputs.meshes import Axis, Scene
    from trellis2_server.mesh import VoxelField
    from trellis2_server.parameters import Options
    from trellis2_server.reports import Report
    from trellis2_server.settings import ExportSettings

_TAKEN_AS_Z_UP: Final = (
    "mesh: Z was taken to point up, as in most STL files; send up_axis: y if Y does"
)


class Named(Protocol):
    """Something with the name of an engine, for the metadata of files."""

    @property
    def name(self) -> str:
        """Name of the engine."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class UploadedMesh:
    """Result of `read_mesh` that `export_model` needs: an uploaded mesh.

    Attributes:
        scene: the uploaded file, in its own frame.
        mesh: all its parts at all their places in the model frame, rotated by `geo_rotation`. Its
            first faces are those of the scene.
        up_axis: the axis that was taken to point up in the file.
        warnings: sentences for the client, for example about that axis.
    """

    scene: Scene
    mesh: Mesh
    up_axis: Axis
    warnings: tuple[str, ...] = ()

    @property
    def placed(self) -> Mesh:
        """The scene as one mesh: each mesh at one place."""
        faces = self.mesh.faces[: sum(len(part.faces) for part in self.scene.parts)]
        if len(faces) == len(self.mesh.faces):
            return self.mesh
        faces, used = compact(faces, len(self.mesh.vertices))
        return Mesh(self.mesh.vertices if used is None else self.mesh.vertices[used], faces)


def read_mesh(
    engine: Named, content: bytes, options: Options, decoders: DecoderPool, report: Report
) -> tuple[UploadedMesh, bytes]:
    """Read an uploaded mesh; return it with its GLB without textures.

    Args:
        engine: for the metadata.
        content: bytes of the file.
        options: `geo_rotation` and `up_axis`.
        decoders: read the file.
        report: stage "read".

    Raises:
        InputError: the file is not a mesh, or is damaged.
        TooLargeError: the mesh is over a limit.
    """
    from trellis2_server.export import given_uv, retexture

    check = partial(report, "read", 0, 2)
    scene, mesh = meshes.read_mesh(
        decoders,
        content,
        rotation_deg=options.geo_rotation,
        up_axis=options.up_axis,
        keep_uv=options.uv == "keep",
        check=check,
    )
    up_axis = scene.upward_axis(options.up_axis)
    warnings: list[str] = []
    if options.up_axis == "auto" and up_axis == "z" and not scene.is_up_axis_declared:
        warnings.append(_TAKEN_AS_Z_UP)
    if scene.unread:
        warnings.append(f"mesh: {', '.join(scene.unread)} of the file is not read and left out")
    uploaded = UploadedMesh(scene, mesh, up_axis, tuple(warnings))
    placed = uploaded.placed
    if options.uv == "keep":
        given_uv.check_uv(scene, placed, report)
    report("read", 1, 2)
    glb = retexture.untextured_glb(
        scene,
        placed,
        extras=_mesh_extras(engine, uploaded, options),
        generator=generator(engine),
        compress=options.compress,
        report=report,
    )
    report("read", 2, 2)
    return uploaded, glb


def textured_mesh(  # noqa: PLR0913, PLR0917 - the parameters of `pipeline.export_model`
    engine: Named,
    uploaded: UploadedMesh,
    field: VoxelField,
    options: Options,
    settings: ExportSettings,
    report: Report,
) -> bytes:
    """Write the textured GLB of an uploaded mesh; see `pipeline.export_model`."""
    from trellis2_server.export import retexture

    return retexture.textured_glb(
        uploaded.scene,
        uploaded.placed,
        field,
        texture_size=options.texture_size,
        alpha_mode=options.alpha_mode,
        texture_format=options.texture_format,
        compress=options.compress,
        unwrap=settings.unwrap,
        keep_uv=options.uv == "keep",
        occlusion=options.occlusion,
        extras=_mesh_extras(engine, uploaded, options),
        generator=generator(engine),
        report=report,
    )


def _mesh_extras(engine: Named, uploaded: UploadedMesh, options: Options) -> dict[str, object]:
    """Value of `asset.extras` for an uploaded mesh; an axis only if it is not glTF's."""
    extras: dict[str, object] = {
        "engine": engine.name,
        "seed": options.seed,
        "geometry": "given",
        "faces": sum(len(part.faces) for part in uploaded.scene.parts),
    }
    return extras if uploaded.up_axis == "y" else extras | {"up_axis": uploaded.up_axis}


def generator(engine: Named) -> str:
    """Value of `asset.generator`; names the engine, so that a preview is recognised."""
    return f"trellis2-server {__version__} ({engine.name} engine)"
