"""`PreviewEngine`: the two stages of the embedded engine, in numpy and compiled loops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from trellis2_server.engines.preview.projection import project, surface_kernels
from trellis2_server.errors import EngineError, MissingPackageError
from trellis2_server.mesh import Mesh, Shape, VoxelField

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trellis2_server.inputs.images import Cutout
    from trellis2_server.parameters import Options

    Report = Callable[[str, int, int], None]

#: Alpha at which a pixel belongs to the object.
ISO: Final = 0.5
#: Faces beyond which a picture of 1024 pixels has no more to give.
MAX_FACES: Final = 250_000
#: A part or a hole below this share of the object's area is a speck.
SPECK_SHARE: Final = 1 / 20_000
MIN_SPECK_PX: Final = 4
#: Free voxels between the picture's square and the cube's faces.
MARGIN_VOXELS: Final = 2.0
MIN_RESOLUTION: Final = 256
MAX_RESOLUTION: Final = 1024
#: In a strip of half width w the solution is u = 2 (w² - x²), so that 0.71 would make rods
#: round and 1 would make a disc a ball; less than either keeps broad things from ballooning.
ROUNDNESS: Final = 0.6
#: No part gets deeper than about this share of the picture's edge, to either side.
MAX_HEIGHT: Final = 0.22
ROUGHNESS: Final = 0.7
#: The middle of the back keeps what a picture of this many columns shows; each finer level
#: of detail ends at a distance from the outline of so many of its own columns.
BACK_COLUMNS: Final = 20
KEPT_DETAIL: Final = 3.0
#: Columns along the edge at which colours need not be made coarser.
MIN_LEVEL: Final = 8
#: Voxels of distance from the surface at which trilinear sampling still finds all corners.
REACH_VOXELS: Final = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class PreviewState:
    """What the texture stage takes over from the shape stage.

    Attributes:
        front: how many of the mesh's faces, from the first on, are the front sheet.
    """

    front: int


def _kernels() -> Any:
    try:
        from trellis2_server.engines.preview import _kernels as kernels
    except ImportError as error:
        raise MissingPackageError(
            "the embedded engine needs numba: pip install -r requirements.txt"
        ) from error
    return kernels


class PreviewEngine:
    """The weight-free engine. Holds nothing between calls; safe in several threads at once."""

    name: str = "preview"

    def load(self, report: Report) -> None:
        """Compile every loop, or read it from numba's cache; the first import does that."""
        report("compile", 0, 1)
        _kernels()
        surface_kernels()

        report("compile", 1, 1)

    def unload(self) -> None:
        """Nothing is held."""

    def describe(self) -> dict[str, object]:
        """It runs on the CPU."""
        return {"device": "cpu"}

    def device_memory(self) -> dict[str, int]:
        """It has no device."""
        return {}

    def shape(self, cutout: Cutout, options: Options, report: Report) -> Shape:
        """The cut-out's silhouette as a closed, manifold, outward-oriented solid.

        The picture's square fills the cube but for two voxels on each side; the front faces
        -Y and up in the picture is +Z. A given picture and options always make the same mesh.

        Raises:
            EngineError: nothing in the picture is opaque.
        """
        kernels = _kernels()
        picture = cutout.rgba
        size = len(picture)
        resolution = field_resolution(options.texture_size)
        report("outline", 0, 4)
        field = _mask_field(kernels, picture)
        report("mesh", 1, 4)
        points, faces, outline = _triangulate(kernels, field, options.decimation_target)
        start, members = _incidence(len(points), faces)
        kernels.relax(points, faces, outline, start, members, 6, 0.6, 1.5, size + 1.5)
        report("inflate", 2, 4)
        u = np.zeros(len(points))
        kernels.solve_poisson(points, faces, outline, start, members, u, 1e-3, 500)
        height = _height(u, outline, size)
        report("back", 3, 4)
        # Node 2 is the first pixel's centre (see `_mask_field`).
        edge = 1.0 - 2.0 * MARGIN_VOXELS / resolution
        scale = edge / size
        flat = (points + np.array([-1.5, 1.5])) * scale + np.array([-0.5, 0.5]) * edge
        mesh = _solid(flat, height * scale, faces, outline)
        report("back", 4, 4)
        return Shape(mesh=mesh, resolution=resolution, state=PreviewState(front=len(faces)))

    def texture(self, shape: Shape, cutout: Cutout, options: Options, report: Report) -> VoxelField:
        """The picture as a sparse field around the surface of `shape`.

        The front has the picture's colours, un-premultiplied, those at the outline taken
        from further inside; transparency is not kept (alpha 1). The back starts from the
        same colours at the outline and loses detail away from it.
        """
        del options
        kernels = _kernels()
        state = cast("PreviewState", shape.state)
        size = shape.resolution
        report("colours", 0, 3)
        front, back = _sheets(kernels, cutout.rgba, size)
        report("surface", 1, 3)
        voxels = (shape.mesh.vertices.astype(np.float64) + 0.5) * size
        points = np.ascontiguousarray(voxels[:, [0, 2, 1]])
        points[:, 2] = 0.5 * size - points[:, 2]
        low = np.full((size, size), np.inf, np.float32)
        high = np.full((size, size), -1.0, np.float32)
        kernels.height_ranges(points, shape.mesh.faces[: state.front], low, high)
        for axis in range(2):
            low = _widened(low, axis, np.minimum)
            high = _widened(high, axis, np.maximum)
        report("voxels", 2, 3)
        coords, attributes = np.empty((0, 3), np.int32), np.empty((0, 6), np.float32)
        given = low, high, REACH_VOXELS, front, back, np.float32(ROUGHNESS)
        count = kernels.fill_voxels(*given, coords, attributes)
        coords, attributes = np.empty((count, 3), np.int32), np.empty((count, 6), np.float32)
        kernels.fill_voxels(*given, coords, attributes)
        report("voxels", 3, 3)
        return VoxelField(coords=coords, attributes=attributes, resolution=size)

    def texture_mesh(
        self, mesh: Mesh, cutout: Cutout, options: Options, report: Report
    ) -> VoxelField:
        """The picture as a sparse field around a given mesh, whose front faces -Y.

        What the picture does not show starts from its colours at the outline and loses
        detail away from it.
        """
        wanted = field_resolution(options.texture_size)
        return project(_kernels(), _sheets, mesh, cutout, wanted, ROUGHNESS, report)


def field_resolution(texture_size_px: int) -> int:
    """Voxels along the cube's edge: about what a texture of that size can show of a side."""
    wanted = texture_size_px * 5 // 8
    return min(max(wanted // 32 * 32, MIN_RESOLUTION), MAX_RESOLUTION)


def _mask_field(kernels: Any, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Alpha at the nodes of the grid, specks dropped: pixel (i, j) is node (i+2, j+2)."""
    size = len(picture)
    edge = 2 << kernels.TOP_LEVEL
    n = -(-(size + 3) // edge) * edge
    field = np.zeros((n + 1, n + 1), np.float32)
    field[2 : size + 2, 2 : size + 2] = picture[..., 3] / np.float32(255)
    area = int((field >= ISO).sum())
    if not area:
        raise EngineError("nothing in the picture is opaque enough to be an object")
    smallest = max(MIN_SPECK_PX, int(area * SPECK_SHARE))
    cleaned = field.copy()
    if kernels.drop_specks(cleaned, np.zeros(field.shape, np.uint8), smallest, smallest):
        return cleaned
    return field


def _triangulate(
    kernels: Any, field: NDArray[np.float32], target: int
) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.uint8]]:
    """Points [N, 2] in grid units (y upward), faces and which points are on the outline."""
    n = len(field) - 1
    cells = [(n >> k) ** 2 for k in range(kernels.TOP_LEVEL + 1)]
    offsets = np.cumsum([0, *cells]).astype(np.int64)
    kind = np.zeros(offsets[-1], np.uint8)
    error = np.zeros(offsets[-1], np.float32)
    split = np.zeros(offsets[-1], np.uint8)
    kernels.classify(field, offsets, kind, error)
    second = kind[offsets[1] : offsets[2]].reshape(n // 2, n // 2)
    distance = np.where(second == kernels.INSIDE, np.float32(1e6), np.float32(0))
    kernels.chamfer(distance)
    # The height's curvature falls with the distance d from the outline like d to the -1.5,
    # so that equal errors would allow d to the 0.75; a little less keeps the shading calm.
    room = (2 * distance) ** np.float32(0.6)
    ids = np.full((3, n + 1, n + 1), -1, np.int32)
    state = np.zeros(2, np.int64)

    def run(
        inner: float,
        outer: float,
        points: NDArray[np.float64],
        faces: NDArray[np.int32],
        outline: NDArray[np.uint8],
    ) -> int:
        return int(
            kernels.triangulate(
                field, offsets, kind, error, room, inner, outer, split, ids,
                points, faces, outline, state,
            )
        )  # fmt: skip

    nothing = np.empty((0, 2)), np.empty((0, 3), np.int32), np.empty(0, np.uint8)
    wanted = min(target, MAX_FACES) // 2
    # First both at once, then the inside alone: the outline's count goes in large steps.
    outer, _ = _coarseness(lambda value: run(value, value, *nothing), wanted, 0.25, 16.0, 5)
    inner, total = _coarseness(
        lambda value: run(value, outer, *nothing), wanted, outer / 4, outer, 6
    )
    # A lone pixel has five vertices and four faces, everything else fewer for each.
    points = np.zeros((total + total // 2, 2))
    faces = np.empty((total, 3), np.int32)
    outline = np.zeros(len(points), np.uint8)
    run(inner, outer, points, faces, outline)
    vertices = int(state[0])
    return points[:vertices].copy(), faces, outline[:vertices].copy()


def _coarseness(
    count: Callable[[float], int], wanted: int, low: float, high: float, rounds: int
) -> tuple[float, int]:
    """The smallest value between `low` and `high` with no more faces than wanted, and these.

    `high` and its faces where even that is not coarse enough.
    """
    made = count(low)
    if made <= wanted:
        return low, made
    made = None
    for _ in range(rounds):
        middle = (low * high) ** 0.5
        faces = count(middle)
        if faces <= wanted:
            high, made = middle, faces
        else:
            low = middle
    return high, count(high) if made is None else made


def _incidence(
    vertices: int, faces: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Around vertex v: `members[start[v] : start[v + 1]]`, each 3 · face + corner."""
    corners = faces.ravel()
    start = np.zeros(vertices + 1, np.int64)
    np.cumsum(np.bincount(corners, minlength=vertices), out=start[1:])
    return start, np.argsort(corners, kind="stable").astype(np.int32)


def _height(u: NDArray[np.float64], outline: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """Height in pixels: round where the object is thin, flattened where it is broad."""
    height = ROUNDNESS * np.sqrt(np.maximum(u, 0.05))
    limit = MAX_HEIGHT * size
    height = limit * np.tanh(height / limit)
    height[outline != 0] = 0.0
    return height


def _solid(
    flat: NDArray[np.float64],
    height: NDArray[np.float64],
    faces: NDArray[np.int32],
    outline: NDArray[np.uint8],
) -> Mesh:
    """Front sheet first, then the back with the other winding, sharing the outline."""
    inner = np.flatnonzero(outline == 0)
    back = np.arange(len(flat), dtype=np.int32)
    back[inner] = len(flat) + np.arange(len(inner), dtype=np.int32)
    vertices = np.empty((len(flat) + len(inner), 3), np.float32)
    vertices[: len(flat), 0] = flat[:, 0]
    vertices[: len(flat), 1] = -height
    vertices[: len(flat), 2] = flat[:, 1]
    vertices[len(flat) :] = vertices[inner] * np.array([1, -1, 1], np.float32)
    return Mesh(
        vertices=vertices,
        faces=np.concatenate([faces, back[faces[:, ::-1]]]),
    )


def _widened(values: NDArray[Any], axis: int, choose: np.ufunc) -> NDArray[Any]:
    """Each column also has the ranges of its neighbours along `axis`."""
    out = values.copy()
    ahead, behind = [slice(None)] * 2, [slice(None)] * 2
    ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
    for to, of in ((ahead, behind), (behind, ahead)):
        choose(out[tuple(to)], values[tuple(of)], out=out[tuple(to)])
    return out


def _trusted(kernels: Any, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture without the pixels whose colour is mixed with what was behind the object.

    A pixel's colour counts where it is about as opaque as its surroundings of 5 by 5, so
    that glass keeps its own and an outline's fringe goes.
    """
    alpha = picture[..., 3]
    most: NDArray[Any] = alpha
    for axis in range(2):
        for _ in range(2):
            most = _widened(most, axis, np.maximum)
    out = picture.copy()
    out[..., 3] = (alpha >= most * np.float32(0.96)) & (alpha > 255 * kernels.CLEAR)
    return out


def _halved(fine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 2 by 2; colours are premultiplied, so that empty columns do not count."""
    rows = fine[::2] + fine[1::2]
    return np.float32(0.25) * (rows[:, ::2] + rows[:, 1::2])


def _sheets(
    kernels: Any, picture: NDArray[np.uint8], size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The front's and the back's colours [x, z, RGB] on the columns of the field.

    Both grow from a coarse picture to the full one by putting in detail level by level,
    where there is any (push and pull); the back leaves it out away from the outline.
    """
    scale = len(picture) / (size - 2 * MARGIN_VOXELS)
    base = np.empty((size, size, 4), np.float32)
    kernels.resample(_trusted(kernels, picture), MARGIN_VOXELS, scale, base)
    distance = np.where(base[..., 3] > ISO, np.float32(1e6), np.float32(0))
    kernels.chamfer(distance)
    levels = [(base, distance)]
    while len(levels[-1][0]) % 2 == 0 and len(levels[-1][0]) > MIN_LEVEL:
        levels.append((_halved(levels[-1][0]), np.ascontiguousarray(levels[-1][1][::2, ::2])))
    total = levels[-1][0].reshape(-1, 4).sum(0)
    mean = total[:3] / max(float(total[3]), 1e-6)
    edge = (len(levels[-1][0]) + 1) // 2
    blurred = int(np.log2(size / BACK_COLUMNS))
    front = back = np.full((edge, edge, 3), mean, np.float32)
    for k in reversed(range(len(levels))):
        level, distance = levels[k]
        shape = (*level.shape[:2], 3)
        coarse, front = front, np.empty(shape, np.float32)
        kernels.refine(coarse, level, distance, np.float32(np.inf), front)
        detail = KEPT_DETAIL * 2**k if k < blurred else np.inf
        coarse, back = back, np.empty(shape, np.float32)
        kernels.refine(coarse, level, distance, np.float32(detail), back)
    return front, back
