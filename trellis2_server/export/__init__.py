"""Export of meshes with voxel attributes to GLB files, on the CPU.

    prepare          clean, optionally remesh, and decimate a mesh
    untextured_glb   GLB with positions and normals
    textured_glb     unwrap, bake, encode and pack a GLB
    set_asset        replace the metadata of another exporter's GLB
    warm_up          compile loops now instead of during the first export
    compiling        compile the loops of every export in the background
    compile_rest     compile the others later

`retexture` textures an uploaded scene, `formats` converts a GLB to other file types.

All functions may run in several threads at once. Equal input gives equal bytes. Heavy packages are
imported by the first call.

`report(stage, step, steps)` is called between steps, and every 50 ms on another thread, with the
latest progress. An exception that it raises ends the export, within about as long.

Does not know: pictures, models, jobs, HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trellis2_server.export.compilation import Compilation
    from trellis2_server.export.geometry import GltfGeometry
    from trellis2_server.mesh import Mesh, PreparedMesh, VoxelField
    from trellis2_server.reports import Report
    from trellis2_server.request_fields import AlphaMode, Compression, TextureFormat

__all__ = ["compile_rest", "compiling", "prepare", "textured_glb", "untextured_glb", "warm_up"]

GENERATOR: Final = "trellis2-server"


def prepare(  # noqa: PLR0913
    mesh: Mesh,
    *,
    decimation_target: int,
    remesh_resolution: int | None = None,
    solid: bool = False,
    min_wall: float = 0.0,
    report: Report | None = None,
) -> PreparedMesh:
    """Clean a mesh and decimate it to at most `decimation_target` faces.

    Cleaning drops duplicate and degenerate faces, unused vertices and small detached parts, closes
    small holes, and winds faces consistently, outward where the surface is closed. It does not move
    vertices. Remeshing replaces the result by watertight shells around it. What is closed stays
    closed: if that needs more faces, the mesh has more, and a warning says so. A solid also has no
    inner shells and does not touch itself; a warning names what could not be reached. What is a
    solid already is not remeshed.

    Args:
        mesh: of an engine.
        decimation_target: maximum number of faces, at least 4.
        remesh_resolution: cells of the shell along an edge of the unit cube; None: no remeshing.
        solid: whether to make a solid, for printing; needs a `remesh_resolution`.
        min_wall: thickness of walls of a solid below which there is a warning, as a share of the
            longest edge of its box.
        report: stages "clean", "remesh" and "decimate".

    Raises:
        ExportError: the arrays are not a mesh, or no face remains.
        MissingPackageError: numba is not installed.
    """
    from trellis2_server.export.cancellation import cancellable
    from trellis2_server.export.clean import clean
    from trellis2_server.export.decimate import decimate
    from trellis2_server.mesh import PreparedMesh
    from trellis2_server.reports import stage_report

    with cancellable(report, "clean") as watched:
        finished = stage_report(watched, "clean", 1)
        finished(0)
        cleaned = clean(mesh)
        finished(1)
        if solid and remesh_resolution is not None:
            from trellis2_server.export.solids import make_solid

            mesh, warnings = make_solid(
                cleaned, decimation_target, remesh_resolution, min_wall, watched
            )
            reason = "it would touch itself, or"
        else:
            if remesh_resolution is not None:
                from trellis2_server.export.remesh import remesh

                cleaned = remesh(cleaned, remesh_resolution, watched)
            mesh, warnings, reason = decimate(cleaned, decimation_target, watched), [], ""
    if len(mesh.faces) > decimation_target:
        reason = f"{reason} its parts, holes and handles could not stay closed".strip()
        warnings.append(
            f"decimation_target: the model stays above {decimation_target} faces, with "
            f"{len(mesh.faces)}: with fewer, {reason}"
        )
    return PreparedMesh(mesh.vertices, mesh.faces, tuple(warnings))


def untextured_glb(
    mesh: Mesh,
    *,
    extras: Mapping[str, object] | None = None,
    generator: str = GENERATOR,
    compress: Compression | None = None,
    report: Report | None = None,
) -> bytes:
    """Return a GLB of the mesh with smooth normals and a neutral material.

    Args:
        mesh: in the model frame.
        extras: JSON values, written to `asset.extras`.
        generator: name and version of the program.
        compress: compression of the triangles; None: uncompressed.
        report: stage "pack".

    Raises:
        ExportError: the mesh cannot be written.
        MissingPackageError: numba, or the package for `compress`, is not installed.
    """
    from trellis2_server.export import glb
    from trellis2_server.export.cancellation import cancellable
    from trellis2_server.export.geometry import geometry
    from trellis2_server.export.material import NEUTRAL
    from trellis2_server.export.validation import checked_mesh

    with cancellable(report, "pack"):
        return glb.pack(
            geometry(checked_mesh(mesh)),
            NEUTRAL,
            extras=extras or {},
            generator=generator,
            compress=compress,
        )


def textured_glb(  # noqa: PLR0913
    mesh: Mesh,
    field: VoxelField,
    *,
    texture_size: int,
    original: Mesh | None = None,
    alpha_mode: AlphaMode = "auto",
    texture_format: TextureFormat = "auto",
    compress: Compression | None = None,
    unwrap: Literal["own", "xatlas"] = "own",
    occlusion: bool = False,
    normal_map: bool = False,
    lods: Sequence[int] = (),
    extras: Mapping[str, object] | None = None,
    generator: str = GENERATOR,
    report: Report | None = None,
) -> bytes:
    """Return a GLB of the mesh with the field's base colour, metallic and roughness.

    Args:
        mesh: in the model frame, best from `prepare`.
        field: attributes in the same frame.
        texture_size: edge of the square textures, pixels.
        original: the surface before decimation. Colours are read at its closest points, unless it
            is so close to `mesh` that none would change. `extras` then gets `error_voxels`, the
            deviation (p99) in voxels.
        alpha_mode: as glTF defines it; "auto" is OPAQUE unless the field is transparent somewhere,
            then MASK if nearly all of it is either clear or solid, otherwise BLEND.
        texture_format: "auto" is JPEG, and PNG for a base colour with alpha.
        compress: compression of the triangles; None: uncompressed.
        unwrap: the method that creates the charts; xatlas runs in its own process, with a deadline.
        occlusion: whether to bake ambient occlusion.
        normal_map: whether to bake the normals of the original. Not with draco, which has no
            tangents.
        lods: maximum numbers of faces of coarser levels of detail, descending; they share the
            texture. `extras` then gets `lods`: faces, `error_voxels` (p99) and `normal_degrees`
            (median), both against the original, of every level.
        extras: JSON values, written to `asset.extras`.
        generator: name and version of the program.
        report: stages "unwrap", "bake", "encode", "levels" and "pack".

    Raises:
        ExportError: the mesh cannot be unwrapped, baked or written.
        MissingPackageError: numba, Pillow, or the package for `compress` or `unwrap`, is not
            installed.
    """
    import numpy as np

    from trellis2_server.export import glb, textures
    from trellis2_server.export.cancellation import cancellable
    from trellis2_server.export.geometry import geometry
    from trellis2_server.export.levels import coarser_levels
    from trellis2_server.export.validation import checked_field, checked_mesh
    from trellis2_server.reports import stage_report

    with cancellable(report, "unwrap") as watched:
        original = None if original is mesh or original is None else checked_mesh(original)
        mesh = checked_mesh(mesh)
        field = checked_field(field)
        extras = dict(extras or {})
        atlas, material, error_voxels, tangents, normals = textures.create_textures(
            mesh,
            field,
            original,
            texture_size=texture_size,
            alpha_mode=alpha_mode,
            texture_format=texture_format,
            unwrap=unwrap,
            occlusion=occlusion,
            normal_map=normal_map,
            report=watched,
        )
        if error_voxels is not None:
            extras["error_voxels"] = round(error_voxels, 4)
        uv = np.divide(atlas.uv, texture_size, dtype=np.float32)
        triangles = geometry(mesh, uv, atlas.source, atlas.faces, tangents, normals)
        levels: list[GltfGeometry] = []
        if lods:
            full = original or mesh
            levels, extras["lods"] = coarser_levels(
                mesh, atlas, triangles, lods, full, field.resolution, watched
            )
        finished = stage_report(watched, "pack", 1)
        finished(0)
        content = glb.pack(
            triangles,
            material,
            extras=extras,
            generator=generator,
            compress=compress,
            coarser=levels,
        )
        finished(1)
        return content


def warm_up(*, everything: bool = False) -> None:
    """Compile loops, or load them from the cache; other processes compile a share.

    Args:
        everything: include those that only some requests need, more than as many again.

    Raises:
        MissingPackageError: numba or Pillow is not installed.
    """
    from trellis2_server.export.compilation import COMMON, PARTS, Compilation

    with Compilation(PARTS if everything else COMMON) as compilation:
        compilation.finish()


def compiling(*, remesh: bool = False) -> Compilation:
    """Return a context manager that compiles the loops of every export in the background.

    Args:
        remesh: include the loops that only a `remesh_resolution` needs.
    """
    from trellis2_server.export.compilation import COMMON, Compilation

    return Compilation((*COMMON, "remesh") if remesh else COMMON)


def compile_rest() -> None:
    """Compile the loops that only some requests need, in another process of low priority."""
    from trellis2_server.export import compilation

    compilation.compile_rest()
