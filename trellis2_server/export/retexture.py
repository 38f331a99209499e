"""Texture a client's scene, preserving its nodes, parts and faces.

Does not know: the scene's file format, how the field was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from trellis2_server.export import glb
from trellis2_server.export.adjacency import is_watertight, twins
from trellis2_server.export.cancellation import cancellable, check
from trellis2_server.export.geometry import GltfParts, pair_rows, smooth_normals
from trellis2_server.export.given_uv import given_atlas
from trellis2_server.export.material import NEUTRAL
from trellis2_server.export.textures import create_textures
from trellis2_server.export.validation import checked_field, checked_mesh
from trellis2_server.inputs.meshes.scene import are_mirrored
from trellis2_server.mesh import Mesh
from trellis2_server.reports import stage_report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from trellis2_server.export.atlas import Atlas
    from trellis2_server.export.material import Material
    from trellis2_server.inputs.meshes import Scene
    from trellis2_server.mesh import VoxelField
    from trellis2_server.reports import Report
    from trellis2_server.request_fields import AlphaMode, Compression, TextureFormat

#: Size below which the faces of a part may have less area than counts as one, and the largest power
#: of two in float32.
_SMALL = 2.0**-10
_MAX_POWER = 126


def untextured_glb(  # noqa: PLR0913 - the parameters of `export.untextured_glb`
    scene: Scene,
    placed: Mesh,
    *,
    extras: Mapping[str, object],
    generator: str,
    compress: Compression | None = None,
    report: Report | None = None,
) -> bytes:
    """Return a GLB of the scene with a neutral material.

    Args:
        scene: in its own frame.
        placed: the whole scene as one mesh.
        extras: JSON values, written to `asset.extras`.
        generator: name and version of the program.
        compress: compression of the triangles; None: uncompressed.
        report: stage "pack".

    Raises:
        ExportError: the scene cannot be written.
        MissingPackageError: the package for `compress` is not installed.
    """
    with cancellable(report, "pack"):
        is_double_sided = _is_double_sided(scene, checked_mesh(placed))
        whole = _merge(scene)
        parts = GltfParts(
            whole.mesh,
            whole.vertices,
            whole.triangles,
            whole.has_normals,
            whole.positions,
            _only(whole.normals, whole.has_normals, whole.vertices),
            None,
            whole.local_faces(),
            is_double_sided,
        )
        return _pack(scene, parts, NEUTRAL, extras, generator, compress)


def textured_glb(  # noqa: PLR0913 - the parameters of `export.textured_glb`
    scene: Scene,
    placed: Mesh,
    field: VoxelField,
    *,
    texture_size: int,
    alpha_mode: AlphaMode = "auto",
    texture_format: TextureFormat = "auto",
    compress: Compression | None = None,
    unwrap: Literal["own", "xatlas"] = "own",
    keep_uv: bool = False,
    occlusion: bool = False,
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
        texture_format: "auto" is JPEG, and PNG for a base colour with alpha.
        compress: compression of the triangles; None: uncompressed. See `scene_compression`.
        unwrap: the method that creates the charts.
        keep_uv: whether to use the scene's own texture coordinates, checked by `check_uv`.
        occlusion: whether to bake ambient occlusion.
        extras: JSON values, written to `asset.extras`.
        generator: name and version of the program.
        report: stages "unwrap", "bake", "encode" and "pack".

    Raises:
        ExportError: the scene cannot be unwrapped, baked or written.
        MissingPackageError: the package for `compress` or `unwrap` is not installed.
    """
    with cancellable(report, "unwrap") as watched:
        placed, field = checked_mesh(placed), checked_field(field)
        atlas, material, *_ = create_textures(
            placed,
            field,
            None,
            texture_size=texture_size,
            alpha_mode=alpha_mode,
            texture_format=texture_format,
            unwrap=unwrap,
            atlas=given_atlas(scene, placed, texture_size) if keep_uv else None,
            occlusion=occlusion,
            report=watched,
        )
        finished = stage_report(watched, "pack", 1)
        finished(0)
        parts = _with_uv(scene, atlas, _is_double_sided(scene, placed))
        content = _pack(scene, parts, material, extras, generator, compress)
        finished(1)
        return content


def _pack(  # noqa: PLR0913, PLR0917 - the parameters of `glb.pack_tree`
    scene: Scene,
    parts: GltfParts,
    material: Material,
    extras: Mapping[str, object],
    generator: str,
    compress: Compression | None,
) -> bytes:
    return glb.pack_tree(
        parts,
        material,
        nodes=scene.nodes,
        roots=scene.roots,
        meshes=scene.meshes,
        extras=extras,
        generator=generator,
        compress=compress,
    )


def _is_double_sided(scene: Scene, placed: Mesh) -> bool:
    return scene.is_double_sided or not is_watertight(
        placed.faces, twins(placed.faces, len(placed.vertices))
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Whole:
    """All parts of a scene as one mesh: 10,000 parts one by one would take seconds.

    Attributes:
        mesh: int64 [P], index of the mesh of each part.
        vertices: int64 [P], number of vertices of each part.
        triangles: int64 [P], number of faces of each part.
        has_normals: bool [P].
        positions: float32 [N, 3], each part in its own node's frame.
        normals: float32 [N, 3]; not set for the parts without normals.
        faces: int32 [F, 3], rows of the positions.
    """

    mesh: NDArray[np.int64]
    vertices: NDArray[np.int64]
    triangles: NDArray[np.int64]
    has_normals: NDArray[np.bool_]
    positions: NDArray[np.float32]
    normals: NDArray[np.float32]
    faces: NDArray[np.int32]

    def local_faces(self) -> NDArray[np.int32]:
        """Return the faces as rows of their part's own vertices, int32 [F, 3]."""
        return self.faces - _starts(self.vertices, self.triangles)


def _merge(scene: Scene) -> _Whole:
    """Merge the parts, and compute the normals of those that are smooth and have none."""
    parts = scene.parts
    vertices = np.array([len(part.positions) for part in parts])
    triangles = np.array([len(part.faces) for part in parts])
    positions = np.concatenate([part.positions for part in parts])
    faces = np.concatenate([part.faces for part in parts])
    faces += _starts(vertices, triangles)
    check()
    given = [part.normals for part in parts if part.normals is not None]
    has_normals = np.array([part.normals is not None for part in parts])
    if len(given) == len(parts):
        normals = np.concatenate(given)
    else:
        normals = np.zeros_like(positions)
        if scene.is_smooth:
            normals = smooth_normals(checked_mesh(Mesh(_enlarged(positions, vertices), faces)))
        if given:
            normals[np.repeat(has_normals, vertices)] = np.concatenate(given)
        has_normals |= scene.is_smooth
    mesh = np.array([part.mesh for part in parts])
    return _Whole(mesh, vertices, triangles, has_normals, positions, normals, faces)


def _enlarged(positions: NDArray[np.float32], vertices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the positions with small parts enlarged, so that their faces count as faces.

    A file may be in any unit. By powers of two, which change no digit.

    Args:
        positions: float32 [N, 3].
        vertices: int64 [P], number of vertices of each part, at least one.
    """
    sizes = np.maximum.reduceat(np.abs(positions).max(axis=1), np.cumsum(vertices) - vertices)
    if sizes.min() >= _SMALL:
        return positions
    powers = np.where(sizes < _SMALL, np.minimum(-np.frexp(sizes)[1], _MAX_POWER), 0)
    factors = np.ldexp(np.float32(1), powers)
    return positions * np.repeat(factors, vertices)[:, None]


def _starts(vertices: NDArray[np.int64], triangles: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the first vertex of the part of each face, int32 [F, 1]."""
    return np.repeat((np.cumsum(vertices) - vertices).astype(np.int32), triangles)[:, None]


def _only(
    rows: NDArray[np.float32], is_kept: NDArray[np.bool_], vertices: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the rows of some parts.

    Args:
        rows: of the vertices of all parts.
        is_kept: bool [P], of each part.
        vertices: int64 [P], number of vertices of each part.
    """
    return rows if is_kept.all() else rows[np.repeat(is_kept, vertices)]


def _with_uv(scene: Scene, atlas: Atlas, is_double_sided: bool) -> GltfParts:  # noqa: FBT001
    """Return the parts, with vertices repeated for each of their texture coordinates.

    Args:
        scene: its parts.
        atlas: of the whole scene.
        is_double_sided: of the result.
    """
    whole = _merge(scene)
    uv_faces = atlas.faces
    # Faces of mirrored parts are flipped in the mesh that was unwrapped.
    flipped = are_mirrored(np.array([part.placement for part in scene.parts]))
    if flipped.any():
        is_flipped = np.repeat(flipped, whole.triangles)
        uv_faces = np.where(is_flipped[:, None], uv_faces[:, ::-1], uv_faces)
    source, rows, faces = pair_rows(whole.faces, uv_faces, len(whole.positions))
    check()
    ends = np.searchsorted(source, np.cumsum(whole.vertices))
    vertices = np.diff(ends, prepend=0)
    normals = whole.normals
    return GltfParts(
        whole.mesh,
        vertices,
        whole.triangles,
        whole.has_normals,
        whole.positions[source],
        _only(normals[source], whole.has_normals, vertices),
        np.divide(atlas.uv[rows], atlas.size_px, dtype=np.float32),
        faces - _starts(vertices, whole.triangles),
        is_double_sided,
    )
