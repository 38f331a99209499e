"""From a mesh and its voxel attributes to a GLB, on the CPU.

    prepare          clean, remesh where that is wanted, and decimate
    untextured_glb   positions and normals
    textured_glb     unwrap, bake, encode and pack
    labelled         somebody else's GLB, which says of itself what ours do
    warm_up          compile everything now instead of during the first export
    compiling        the same while something else goes on

Every function may run in several threads at once and gives the same bytes each time. Heavy
packages are imported at the first call.

`report(stage, step, steps)` is called between steps; what it raises ends the export.

What this package does not know: pictures, models, jobs, HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trellis2_server.export.compilation import Compilation
    from trellis2_server.mesh import Mesh, VoxelField

    Report = Callable[[str, int, int], None]

__all__ = ["compiling", "labelled", "prepare", "textured_glb", "untextured_glb", "warm_up"]

GENERATOR: Final = "trellis2-server"


def prepare(
    mesh: Mesh,
    *,
    decimation_target: int,
    remesh_resolution: int | None = None,
    report: Report | None = None,
) -> Mesh:
    """The mesh cleaned, and decimated to at most `decimation_target` faces.

    Cleaning drops duplicate and degenerate faces, stray vertices and floaters, closes small
    holes, and winds faces alike, outward where the surface is closed. It never moves a
    vertex; the frame is kept. Remeshing wraps what is left in one watertight shell.

    Args:
        mesh: as an engine made it.
        decimation_target: faces, at least 4.
        remesh_resolution: cells of the shell along an edge of the unit cube; None: the
            surface stays as it is, open or with walls inside.
        report: stages "clean", "remesh" and "decimate".

    Raises:
        ExportError: the arrays are no mesh, or nothing is left of it.
        MissingPackageError: numba is not installed.
    """
    from trellis2_server.export.clean import clean
    from trellis2_server.export.decimate import decimate

    if report:
        report("clean", 0, 1)
    cleaned = clean(mesh)
    if report:
        report("clean", 1, 1)
    if remesh_resolution is not None:
        from trellis2_server.export.remesh import remesh

        cleaned = remesh(cleaned, remesh_resolution, report)
    return decimate(cleaned, decimation_target, report)


def untextured_glb(
    mesh: Mesh,
    *,
    extras: Mapping[str, object] | None = None,
    generator: str = GENERATOR,
    compress: Literal["meshopt", "draco"] | None = None,
) -> bytes:
    """A GLB of the mesh with smooth normals and a neutral material.

    Args:
        mesh: in the model frame.
        extras: JSON values that the file says about itself.
        generator: the program's name and version.
        compress: how to compress the triangles.

    Raises:
        ExportError: the mesh cannot be written.
        MissingPackageError: numba or the package for `compress` is not installed.
    """
    from trellis2_server.export import clean, glb

    mesh = clean.checked(mesh)
    neutral = glb.Material(color=(0.6, 0.6, 0.6, 1.0), metallic=0.0, roughness=0.7)
    return glb.pack(
        glb.geometry(mesh), neutral, extras=extras or {}, generator=generator, compress=compress
    )


def textured_glb(  # noqa: PLR0913
    mesh: Mesh,
    field: VoxelField,
    *,
    texture_size: int,
    original: Mesh | None = None,
    alpha_mode: Literal["auto", "OPAQUE", "MASK", "BLEND"] = "auto",
    texture_format: Literal["auto", "png", "jpeg", "webp"] = "auto",
    compress: Literal["meshopt", "draco"] | None = None,
    unwrap: Literal["own", "xatlas"] = "own",
    extras: Mapping[str, object] | None = None,
    generator: str = GENERATOR,
    report: Report | None = None,
) -> bytes:
    """A GLB of the mesh, textured with the field's base colour, metallic and roughness.

    Args:
        mesh: in the model frame, best from `prepare`.
        field: the attributes, in the same frame; where they are torch tensors on a device, the
            textures are painted there.
        texture_size: edge of the square textures, in pixels.
        original: the surface that the field belongs to, where `mesh` was decimated: colours
            are read at its closest points, unless `mesh` is so close to it that no colour
            would change. `extras` then tells `error_voxels`, how far they are apart (p99).
        alpha_mode: glTF's; "auto" is OPAQUE unless the field is really transparent
            somewhere, then MASK where nearly all of it is either clear or solid, else BLEND.
        texture_format: "auto" is JPEG, and WebP for a base colour with alpha.
        compress: how to compress the triangles.
        unwrap: whose charts; xatlas runs in a process of its own, with a deadline.
        extras: JSON values that the file says about itself.
        generator: the program's name and version.
        report: stages "unwrap", "bake", "encode" and "pack".

    Raises:
        ExportError: the mesh cannot be unwrapped, baked or written.
        MissingPackageError: numba, Pillow, or the package for `compress` or `unwrap` is
            not installed.
    """
    import numpy as np

    from trellis2_server.export import clean, glb, textures

    original = None if original is mesh or original is None else clean.checked(original)
    mesh = clean.checked(mesh)
    if not textures.is_on_device(field):
        field = clean.checked_field(field)
    extras = dict(extras or {})
    atlas, material, error = textures.textured(
        mesh,
        field,
        original,
        texture_size=texture_size,
        alpha_mode=alpha_mode,
        texture_format=texture_format,
        unwrap=unwrap,
        report=report,
    )
    if error is not None:
        extras["error_voxels"] = round(error, 4)
    if report:
        report("pack", 0, 1)
    uv = np.divide(atlas.uv, texture_size, dtype=np.float32)
    shape = glb.geometry(mesh, uv, atlas.source, atlas.faces)
    content = glb.pack(shape, material, extras=extras, generator=generator, compress=compress)
    if report:
        report("pack", 1, 1)
    return content


def warm_up(*, remesh: bool = False) -> None:
    """Compile every loop, or load it from the cache; other processes take their share.

    Args:
        remesh: also what only a `remesh_resolution` needs, nearly as much again.

    Raises:
        MissingPackageError: numba or Pillow is not installed.
    """
    with compiling(remesh=remesh) as compilation:
        compilation.finish()


def compiling(*, remesh: bool = False) -> Compilation:
    """Like `warm_up`, beside something else that takes long: see `Compilation`."""
    from trellis2_server.export.compilation import Compilation

    return Compilation(remesh=remesh)


def labelled(glb: bytes, *, extras: Mapping[str, object], generator: str) -> bytes:
    """A GLB that another exporter wrote, with our words about how it came about.

    Raises:
        ExportError: it is no GLB.
    """
    from trellis2_server.export.glb import labelled as label

    return label(glb, extras=extras, generator=generator)
