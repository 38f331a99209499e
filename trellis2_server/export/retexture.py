"""Texture a client's scene, preserving its nodes, parts and faces.

Does not know: the scene's file format, how the field was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from trellis2_server.export import glb
from trellis2_server.export.adjacency import is_watertight, twins
from trellis2_server.export.cancellation import cancellable, checked
from trellis2_server.export.geometry import GltfGeometry, pair_rows, smooth_normals
from trellis2_server.export.material import NEUTRAL
from trellis2_server.export.textures import create_textures
from trellis2_server.export.validation import checked_field, checked_mesh
from trellis2_server.mesh import Mesh
from trellis2_server.reports import stage_report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from trellis2_server.export.atlas import Atlas
    from trellis2_server.export.material import Material
    from trellis2_server.inputs.meshes import Part, Scene
    from trellis2_server.mesh import VoxelField
    from trellis2_server.reports import Report
    from trellis2_server.request_fields import AlphaMode, TextureFormat


def untextured_glb(
    scene: Scene,
    placed: Mesh,
    *,
    extras: Mapping[str, object],
    generator: str,
    report: Report | None = None,
) -> bytes:
    """Return a GLB of the scene with a neutral material.

    Args:
        scene: in its own frame.
        placed: the whole scene as one mesh.
        extras: JSON values, written to `asset.extras`.
        generator: name and version of the program.
        report: stage "pack".

    Raises:
        ExportError: the scene cannot be written.
    """
    with cancellable(report, "pack"):
        is_double_sided = _is_double_sided(scene, checked_mesh(placed))
        geometries = [
            (
                part.mesh,
                GltfGeometry(
                    part.positions,
                    _normals(scene, part),
                    None,
                    part.faces.astype(np.uint32),
                    is_double_sided,
                ),
            )
            for part in checked(scene.parts)
        ]
        return _pack(scene, geometries, NEUTRAL, extras, generator)


def textured_glb(  # noqa: PLR0913 - the parameters of `export.textured_glb`
    scene: Scene,
    placed: Mesh,
    field: VoxelField,
    *,
    texture_size: int,
    alpha_mode: AlphaMode = "auto",
    texture_format: TextureFormat = "auto",
    unwrap: Literal["own", "xatlas"] = "own",
    extras: Mapping[str, object],
    generator: str,
    report: Report | None = None,
) -> bytes:
    """Return a GLB of the scene with the field's base colour, metallic and roughness.

    The faces keep their order and the positions of their corners. Vertices with several texture
    coordinates are repeated.

    Args:
        scene: in its own frame.
        placed: the whole scene as one mesh in the field's frame, faces in the order of the parts.
        field: material attributes.
        texture_size: edge of the square textures, pixels.
        alpha_mode: as glTF defines it; "auto" is chosen by the baked alpha.
        texture_format: "auto" is JPEG, and WebP for a base colour with alpha.
        unwrap: the method that creates the charts.
        extras: JSON values, written to `asset.extras`.
        generator: name and version of the program.
        report: stages "unwrap", "bake", "encode" and "pack".

    Raises:
        ExportError: the scene cannot be unwrapped, baked or written.
    """
    with cancellable(report, "unwrap") as watched:
        placed, field = checked_mesh(placed), checked_field(field)
        atlas, material, _ = create_textures(
            placed,
            field,
            None,
            texture_size=texture_size,
            alpha_mode=alpha_mode,
            texture_format=texture_format,
            unwrap=unwrap,
            report=watched,
        )
        finished = stage_report(watched, "pack", 1)
        finished(0)
        is_double_sided = _is_double_sided(scene, placed)
        geometries: list[tuple[int, GltfGeometry]] = []
        first = 0
        for part in checked(scene.parts):
            last = first + len(part.faces)
            geometry = _with_uv(scene, part, atlas, atlas.faces[first:last], is_double_sided)
            geometries.append((part.mesh, geometry))
            first = last
        content = _pack(scene, geometries, material, extras, generator)
        finished(1)
        return content


def _pack(
    scene: Scene,
    geometries: list[tuple[int, GltfGeometry]],
    material: Material,
    extras: Mapping[str, object],
    generator: str,
) -> bytes:
    return glb.pack_tree(
        geometries,
        material,
        nodes=scene.nodes,
        roots=scene.roots,
        meshes=scene.meshes,
        extras=extras,
        generator=generator,
    )


def _is_double_sided(scene: Scene, placed: Mesh) -> bool:
    return scene.is_double_sided or not is_watertight(
        placed.faces, twins(placed.faces, len(placed.vertices))
    )


def _normals(scene: Scene, part: Part) -> NDArray[np.float32]:
    if part.normals is not None:
        return part.normals
    if scene.is_smooth:
        return smooth_normals(checked_mesh(Mesh(part.positions, part.faces)))
    return np.empty((0, 3), np.float32)


def _with_uv(
    scene: Scene,
    part: Part,
    atlas: Atlas,
    uv_faces: NDArray[np.int32],
    is_double_sided: bool,  # noqa: FBT001
) -> GltfGeometry:
    """Return the geometry of a part, with vertices repeated for each of their texture coordinates.

    Args:
        scene: of the part.
        part: one triangle list.
        atlas: of the whole scene.
        uv_faces: int32 [F, 3], rows of `atlas.uv` for the faces of the part.
        is_double_sided: of the geometry.
    """
    if part.is_mirrored:  # these faces are flipped in `placed`
        uv_faces = uv_faces[:, ::-1]
    vertices, rows, faces = pair_rows(part.faces, uv_faces, len(part.positions))
    normals = _normals(scene, part)
    return GltfGeometry(
        part.positions[vertices],
        normals[vertices] if len(normals) else normals,
        np.divide(atlas.uv[rows], atlas.size_px, dtype=np.float32),
        faces.astype(np.uint32),
        is_double_sided,
    )
