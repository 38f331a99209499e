"""`PreviewEngine`: makes shapes and their colours from the picture's outline.

Does not know: files, jobs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from trellis2_server.engines.preview import kernels
from trellis2_server.engines.preview.back import choose_back
from trellis2_server.engines.preview.heightmap import cell_sizes, make_heightmap
from trellis2_server.engines.preview.projection import project
from trellis2_server.engines.preview.sheets import MARGIN_VOXELS, sheets
from trellis2_server.engines.preview.silhouette import incidence, mask_field, triangulate
from trellis2_server.engines.preview.solid import heights, solid
from trellis2_server.engines.preview.views import bound_depth, paint_views, unused_views
from trellis2_server.engines.preview.voxels import paint
from trellis2_server.export.cancellation import call, cancellable
from trellis2_server.mesh import Mesh, Shape
from trellis2_server.reports import stage_report

if TYPE_CHECKING:
    from trellis2_server.engines.preview.back import BackMode
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.mesh import VoxelField
    from trellis2_server.parameters import Options
    from trellis2_server.reports import Report

_MIN_RESOLUTION: Final = 256
_MAX_RESOLUTION: Final = 1024
_ROUGHNESS: Final = 0.7
#: Settings of `export` that suit pictures of at most 1024 pixels, in place of the defaults:
#: beyond them the front view changes by less than 0.3 dB, and files and times double.
PREVIEW_DEFAULTS: Final = {"glb_decimation_target": 100_000, "glb_texture_size": 2048}
#: Faces of a shape for a normal map: as many as the engine makes.
_FACES_OF_NORMAL_MAP: Final = 250_000


@dataclass(frozen=True, slots=True, eq=False)
class PreviewState:
    """What the texture stage needs from the shape stage.

    Attributes:
        front: number of faces of the front sheet, which are the mesh's first faces.
        back: what the side has that the picture does not show.
    """

    front: int
    back: BackMode


class PreviewEngine:
    """The engine without weights. Has no state; can be used by several threads at once."""

    name: str = "preview"

    def load(self, report: Report) -> None:
        """Compile every loop, or read it from numba's cache."""
        kernels.load_all(stage_report(report, "compile", len(kernels.MODULES)))

    def unload(self) -> None:
        """Do nothing: there is nothing to free."""

    def describe(self) -> dict[str, object]:
        """Return the device, which is the CPU."""
        return {"device": "cpu"}

    def device_memory(self) -> dict[str, int]:
        """Return nothing: there is no device memory."""
        return {}

    def shape(self, cutout: Cutout, options: Options, report: Report) -> Shape:
        """Make a closed, manifold, outward-oriented solid of the cut-out's silhouette.

        The picture's square fills the cube except for two voxels on each side. The front faces
        -Y; up in the picture is +Z. The same picture and options give the same mesh. It has about
        as many faces as are asked for; more with `normal_map`, see `faces_of`.

        `details` of the shape are `depth`, how the depth was found, and `back`, a `BackMode`.

        Stages: "outline", "mesh", "inflate", "back".

        Raises:
            EngineError: nothing in the picture is opaque.
        """
        with cancellable(report, "outline") as watched:
            inflation = kernels.load("inflation")
            picture = cutout.rgba
            size = len(picture)
            resolution = field_resolution(options.texture_size)
            watched("outline", 0, 4)
            field = mask_field(picture)
            depth = None if options.depth == "auto" else options.depth
            wanted = faces_of(options)
            heightmap = make_heightmap(
                picture, np.ascontiguousarray(field[2 : size + 2, 2 : size + 2]), depth, wanted
            )
            watched("mesh", 1, 4)
            room = cell_sizes(heightmap, len(field))
            points, faces, outline = triangulate(field, wanted, room)
            start, members = incidence(len(points), faces)
            call(inflation.relax, points, faces, outline, start, members, 6, 0.6, 1.5, size + 1.5)
            watched("inflate", 2, 4)
            u = np.zeros(len(points))
            call(inflation.solve_poisson, points, faces, outline, start, members, u, 1e-3, 500)
            pixels = points * np.array([1, -1]) - 1.5
            front, behind = heights(u, outline, heightmap, pixels)
            watched("back", 3, 4)
            back = choose_back(picture, options.back, heightmap.depth)
            # Node 2 is the first pixel's centre (see `mask_field`).
            edge = 1.0 - 2.0 * MARGIN_VOXELS / resolution
            scale = edge / size
            flat = (points + np.array([-1.5, 1.5])) * scale + np.array([-0.5, 0.5]) * edge
            mesh = solid(flat, front * scale, behind * scale, faces, outline)
            mesh = bound_depth(mesh, cutout, edge)
            watched("back", 4, 4)
            return Shape(
                mesh=mesh,
                resolution=resolution,
                state=PreviewState(len(faces), back),
                details={
                    "depth": heightmap.form if depth is None else f"{depth:g}",
                    "back": back,
                },
                warnings=unused_views(cutout),
            )

    def texture(self, shape: Shape, cutout: Cutout, options: Options, report: Report) -> VoxelField:
        """Make the picture's colours as a sparse field around the surface of `shape`.

        The front has the picture's colours, not premultiplied; those at the outline are taken
        from further inside, see `voxels`. The back is that of the shape's state, see
        `sheets`. The alpha is that of a picture that came with one, where the object is glass.

        Stages: "colours", "surface", "voxels".
        """
        del options
        with cancellable(report, "colours") as watched:
            state = cast("PreviewState", shape.state)
            watched("colours", 0, 3)
            # That of a background model says how sure it is, not how transparent the object is.
            has_alpha = cutout.background == "alpha"
            colors = sheets(cutout.rgba, shape.resolution, state.back, has_alpha=has_alpha)
            field = paint(
                shape.mesh, state.front, colors, np.float32(_ROUGHNESS), shape.resolution, watched
            )
            return paint_views(field, cutout)

    def texture_mesh(
        self, mesh: Mesh, cutout: Cutout, options: Options, report: Report
    ) -> VoxelField:
        """Make the picture's colours as a sparse field around an uploaded mesh.

        The mesh's front faces -Y. Parts that the picture does not show have the back of `sheets`;
        `back` of the field's `details` says which.

        Stages: "colours", "voxels".
        """
        with cancellable(report, "colours") as watched:
            size = field_resolution(options.texture_size)
            back = choose_back(cutout.rgba, options.back)
            field = project(mesh, cutout, size, back, _ROUGHNESS, watched)
            return paint_views(replace(field, warnings=unused_views(cutout)), cutout)


def faces_of(options: Options) -> int:
    """Return the faces of the shape, which the exporter decimates to those of the request.

    A normal map has what the shape has beyond the request's faces.
    """
    target = options.decimation_target
    return max(target, _FACES_OF_NORMAL_MAP) if options.normal_map else target


def field_resolution(texture_size_px: int) -> int:
    """Return the edge of the voxel field: about the detail of one side in such a texture."""
    wanted = texture_size_px * 5 // 8
    return min(max(wanted // 32 * 32, _MIN_RESOLUTION), _MAX_RESOLUTION)
