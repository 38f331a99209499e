"""Time and judge the exporter against what upstream does, on one machine in one run.

    python bench/export.py --faces 200000 --texture 2048 --json

Upstream's side is its CPU work: xatlas on clusters of 90 degree cones (the clustering itself
counted as free), OpenCV's inpainting of four maps, Pillow's WebP at its defaults, trimesh.
`ratio` compares that with our unwrap, fill, encode and pack. `seconds` is the whole way from
the decimated mesh, the original mesh and the voxels to bytes, projection included.
`decimate_seconds` is cleaning and decimation; `decimate_ratio` compares it with meshoptimizer's
decimation alone, which cleans nothing and moves no vertex.

    python bench/export.py --shape all

prints the quality of all shapes, ours and upstream's, as one table.

The shapes after `sheet` are dual grids like TRELLIS.2's at `--resolution`, made without weights
(tests/support/dual_grid.py): open, non-manifold, wound by the grid's axes; `--mesh FILE` makes one
of any mesh file.

Needs what the exporter needs, and trimesh and scikit-image; the baseline also xatlas,
meshoptimizer and opencv-python-headless.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trellis2_server import export
from trellis2_server.mesh import Mesh, VoxelField

if TYPE_CHECKING:
    from typing_extensions import Self

SHAPES = ("blob", "torus", "links", "noise", "inflated", "sheet")
DUAL_GRIDS = ("hair", "cloth", "crowded", "bolt")


def distance(shape: str, p: np.ndarray) -> np.ndarray:
    """A function that is negative inside the shape, at float32 [..., 3]."""
    x, y, z = p[..., 0], p[..., 1], p[..., 2]
    if shape == "torus":
        return np.hypot(np.hypot(x, y) - 0.31, z) - 0.12
    if shape == "links":
        first = np.hypot(np.hypot(x + 0.12, y) - 0.24, z) - 0.07
        second = np.hypot(np.hypot(x - 0.12, z) - 0.24, y) - 0.07
        return np.minimum(first, second)
    if shape == "inflated":
        outline = 0.36 + 0.08 * np.cos(5 * np.arctan2(z, x)) - np.hypot(x, z)
        return (
            np.abs(y) - 0.35 * np.sqrt(np.clip(outline, 0, None)) + 2 * np.clip(-outline, 0, None)
        )
    if shape == "sheet":
        return np.abs(y - 0.1 * np.sin(7 * x) * np.cos(5 * z)) - np.where(
            np.maximum(np.abs(x), np.abs(z)) < 0.4, 0.012, -1.0
        )
    r = np.sqrt(x * x + y * y + z * z)
    bumps = 0.05 * np.sin(9 * x + 1) * np.sin(8 * y) * np.sin(10 * z)
    if shape == "noise":
        bumps = bumps + 0.012 * np.sin(61 * x) * np.sin(57 * y + 2) * np.sin(67 * z)
    return r - 0.33 - bumps


def surface(shape: str, cells: int) -> Mesh:
    """The shape's surface by marching cubes over `cells` cells along an edge."""
    from skimage.measure import marching_cubes

    axis = np.linspace(-0.5, 0.5, cells, dtype=np.float32)
    values = np.empty((cells, cells, cells), np.float32)
    for i, x in enumerate(axis):
        y, z = np.meshgrid(axis, axis, indexing="ij")
        values[i] = distance(shape, np.stack([np.full_like(y, x), y, z], -1))
    vertices, faces, _, _ = marching_cubes(values, 0.0, spacing=(float(axis[1] - axis[0]),) * 3)
    vertices = (vertices - 0.5).astype(np.float32)
    # scikit-image winds faces the other way round for negative insides.
    return Mesh(vertices, np.ascontiguousarray(faces.astype(np.int32)))


def original_of(args: argparse.Namespace) -> Mesh:
    """The surface that the command line asks for."""
    if args.mesh or args.shape in DUAL_GRIDS:
        return dual_grid(args.shape, args.resolution, args.mesh)
    wanted = args.original_faces or int(3.5 * args.faces)
    probe = len(surface(args.shape, 64).faces)
    return surface(args.shape, int(64 * np.sqrt(wanted / probe)) + 1)


def dual_grid(shape: str, resolution: int, file: Path | None) -> Mesh:
    """A mesh like TRELLIS.2's of the shape, or of a mesh file put into the cube."""
    from tests.support.dual_grid import REAL, voxelised

    if file is None:
        return voxelised(REAL[shape](), resolution)
    import trimesh

    mesh = trimesh.load(file, force="mesh")
    middle, extent = mesh.bounds.mean(axis=0), float(mesh.extents.max())
    vertices = (np.asarray(mesh.vertices) - middle) * (0.9 / extent)
    return voxelised(
        Mesh(vertices.astype(np.float32), np.asarray(mesh.faces, np.int32)), resolution
    )


def attributes(p: np.ndarray, *, alpha: bool) -> np.ndarray:
    """The six attributes at points [N, 3] of the model frame."""
    x, y, z = p.T
    out = np.empty((len(p), 6), np.float32)
    out[:, 0] = 0.5 + 0.3 * np.sin(20 * x + 3 * z) + 0.15 * np.sin(70 * z)
    out[:, 1] = 0.5 + 0.3 * np.sin(23 * y + 1) + 0.15 * np.sin(80 * x + 40 * y)
    out[:, 2] = 0.5 + 0.4 * np.cos(19 * z - 5 * x)
    out[:, 3] = np.clip(0.5 + 2 * np.sin(11 * y + 5 * x), 0, 1)
    out[:, 4] = 0.5 + 0.4 * np.sin(15 * x + 8 * y)
    out[:, 5] = 0.6 + 0.4 * np.sin(12 * x) if alpha else 1.0
    return out


def voxels(mesh: Mesh, resolution: int, *, alpha: bool) -> VoxelField:
    """The attributes on the voxels that touch the surface or are next to it."""
    cells = np.floor((mesh.vertices + 0.5) * resolution).astype(np.int64)
    near = np.zeros((resolution,) * 3, bool)
    cells = np.unique(cells.clip(1, resolution - 2), axis=0)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            for k in (-1, 0, 1):
                near[cells[:, 0] + i, cells[:, 1] + j, cells[:, 2] + k] = True
    coords = np.argwhere(near).astype(np.int32)
    return VoxelField(
        coords, attributes((coords + 0.5) / resolution - 0.5, alpha=alpha), resolution
    )


def read_glb(content: bytes) -> dict[str, np.ndarray]:
    """Positions in the model frame, uv in [0, 1] with v downward, faces and pictures."""
    import trimesh

    scene = trimesh.load(io.BytesIO(content), file_type="glb", process=False)
    mesh = next(iter(scene.geometry.values()))
    material = mesh.visual.material
    p = np.asarray(mesh.vertices)
    uv = np.array(mesh.visual.uv)
    uv[:, 1] = 1 - uv[:, 1]
    out = {
        "positions": np.stack([p[:, 0], -p[:, 2], p[:, 1]], 1),
        "uv": uv,
        "faces": np.asarray(mesh.faces),
        "base": np.asarray(material.baseColorTexture.convert("RGBA")),
    }
    if material.metallicRoughnessTexture is not None:
        out["metal"] = np.asarray(material.metallicRoughnessTexture.convert("RGB"))
    return out


def look_up(picture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """The picture at uv [N, 2], bilinear, clamped at the border: float [N, C] in [0, 255]."""
    height, width = picture.shape[:2]
    x, y = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
    i, j = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = (x - i)[:, None], (y - j)[:, None]
    i0, i1 = i.clip(0, width - 1), (i + 1).clip(0, width - 1)
    j0, j1 = j.clip(0, height - 1), (j + 1).clip(0, height - 1)
    upper = picture[j0, i0] * (1 - fx) + picture[j0, i1] * fx
    lower = picture[j1, i0] * (1 - fx) + picture[j1, i1] * fx
    return upper * (1 - fy) + lower * fy


def judge(content: bytes, original: Mesh, field: VoxelField, points: int = 300_000) -> dict:
    """PSNR against the field at the closest point of the original, and the seam error.

    The field is read with the exporter's own sampler and closest point, which the tests check
    against independent code.
    """
    from trellis2_server.export import bake

    file = read_glb(content)
    rng = np.random.default_rng(0)
    corner = file["positions"][file["faces"]]
    area = np.linalg.norm(
        np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1
    )
    face = rng.choice(len(area), points, p=area / area.sum())
    weight = rng.dirichlet([1, 1, 1], points)
    p = (corner[face] * weight[..., None]).sum(1)
    uv = (file["uv"][file["faces"][face]] * weight[..., None]).sum(1)
    wanted = 255 * bake.look_up(p, field, original)
    have = look_up(file["base"], uv)
    result = {"psnr_base": psnr(have[:, :3] - wanted[:, :3])}
    if np.ptp(wanted[:, 5]) > 1:
        result["psnr_alpha"] = psnr(have[:, 3] - wanted[:, 5])
    if "metal" in file:
        metal = look_up(file["metal"], uv)
        result["psnr_metal_rough"] = psnr(metal[:, [2, 1]] - wanted[:, [3, 4]])
    result["seam"] = seam(file)
    flat = file["uv"][file["faces"]] * len(file["base"])
    result |= stretch(corner, flat, len(file["base"]))
    inside = (flat >= 0) & (flat <= len(file["base"]))
    result["faces_without_uv"] = int((~inside).any((1, 2)).sum())
    result["points_without_data"] = int(np.isnan(wanted).any(1).sum())
    return result


def psnr(error: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(float((error**2).mean()), 1e-12)))


def seam(file: dict[str, np.ndarray]) -> float:
    """Mean colour difference, of 255, at the same points of two charts' common borders."""
    _, same = np.unique(file["positions"], axis=0, return_inverse=True)
    faces = file["faces"]
    half = np.concatenate([faces[:, [k, (k + 1) % 3]] for k in range(3)])
    place = same[half]
    turned = place[:, 0] > place[:, 1]
    half[turned] = half[turned][:, ::-1]
    place.sort(axis=1)
    order = np.lexsort(place.T)
    half, place = half[order], place[order]
    pair = np.flatnonzero((place[1:] == place[:-1]).all(1))
    a, b = half[pair], half[pair + 1]
    apart = (a != b).any(1)
    a, b = a[apart], b[apart]
    if len(a) == 0:
        return 0.0
    errors = []
    length = np.linalg.norm(file["positions"][a[:, 0]] - file["positions"][a[:, 1]], axis=1)
    for t in (0.1, 0.3, 0.5, 0.7, 0.9):
        first = look_up(file["base"], file["uv"][a[:, 0]] * (1 - t) + file["uv"][a[:, 1]] * t)
        second = look_up(file["base"], file["uv"][b[:, 0]] * (1 - t) + file["uv"][b[:, 1]] * t)
        errors.append(np.abs(first - second)[:, :3].mean(1))
    return float(np.average(np.mean(errors, axis=0), weights=length + 1e-12))


def stretch(corner: np.ndarray, flat: np.ndarray, size: int) -> dict[str, float]:
    """p99 over the median of the larger singular value of texture → surface, and atlas use.

    Args:
        corner: float [F, 3, 3], places in space.
        flat: float [F, 3, 2], places in texels.
        size: edge of the texture.
    """
    u, v = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
    p, q = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    det = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    area = 0.5 * np.linalg.norm(np.cross(p, q), axis=1)
    good = (np.abs(det) > 1e-9) & (area > 1e-12)
    u, v, p, q, det, area = u[good], v[good], p[good], q[good], det[good, None], area[good]
    du = (p * v[:, 1:] - q * u[:, 1:]) / det
    dv = (q * u[:, :1] - p * v[:, :1]) / det
    a, b, c = (du * du).sum(1), (du * dv).sum(1), (dv * dv).sum(1)
    larger = np.sqrt((a + c) / 2 + np.sqrt(((a - c) / 2) ** 2 + b * b))
    order = np.argsort(larger)
    share = np.cumsum(area[order]) / area.sum()
    median, p99 = larger[order][np.searchsorted(share, [0.5, 0.99])]
    return {"stretch_p99": float(p99 / median), "use": float(np.abs(det).sum() / 2 / size**2)}


class Stages:
    """Seconds between the calls of `report`, added up by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, stage: str, step: int, _steps: int) -> None:
        now = time.perf_counter()
        if step > 0 or stage == "pack":
            key = f"{stage}.{step}" if stage == "bake" else "encode" if step == 0 else stage
            self.seconds[key] = self.seconds.get(key, 0.0) + now - self._last
        self._last = now


class Spent:
    """Seconds of each stage, from its first report to its last."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun: dict[str, float] = {}

    def __call__(self, stage: str, _step: int, _steps: int) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self._begun.setdefault(stage, now)


def errors(original: Mesh, mesh: Mesh, resolution: int) -> dict[str, float]:
    """How far the exported surface is from the original one, both ways, in voxels."""
    from trellis2_server.export.deviation import deviation

    lost, added = deviation(original, mesh, resolution), deviation(mesh, original, resolution)
    return {
        "error_p99_voxels": lost.p99,
        "error_max_voxels": lost.largest,
        "added_p99_voxels": added.p99,
        "added_max_voxels": added.largest,
    }


def decimated_by_meshoptimizer(original: Mesh, target: int, repeat: int) -> tuple[Mesh, float]:
    """What the fastest library makes of the same mesh, and the seconds it takes at its best."""
    import meshoptimizer

    indices = original.faces.astype(np.uint32).reshape(-1)
    made = np.empty_like(indices)
    count, seconds = 0, float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        count = meshoptimizer.simplify(
            made, indices, original.vertices, target_index_count=3 * target, target_error=1.0
        )
        seconds = min(seconds, time.perf_counter() - start)
    used, faces = np.unique(made[:count], return_inverse=True)
    return Mesh(original.vertices[used], faces.reshape(-1, 3).astype(np.int32)), seconds


def is_watertight(mesh: Mesh) -> bool:
    """Whether every edge has two faces that walk it in opposite directions."""
    from trellis2_server.export.adjacency import is_solid, twins

    return is_solid(mesh.faces, twins(mesh.faces, len(mesh.vertices)))


def baseline(
    mesh: Mesh, size: int, *, alpha: bool, clusters_wanted: int | None
) -> dict[str, float]:
    """Seconds of upstream's CPU steps on the same mesh."""
    import cv2
    import trimesh
    import xatlas
    from PIL import Image

    start = time.perf_counter()
    clusters = cones(mesh, clusters_wanted)
    free = time.perf_counter()
    atlas = xatlas.Atlas()
    for faces in clusters:
        used, where = np.unique(faces, return_inverse=True)
        atlas.add_mesh(mesh.vertices[used], where.reshape(-1, 3).astype(np.uint32))
    # Its default packing: at a given resolution xatlas takes far longer.
    atlas.generate()
    unwrapped = time.perf_counter()

    parts, offset = [], 0
    for i in range(len(clusters)):
        source, faces, uv = atlas[i]
        used = np.unique(clusters[i])
        parts.append((mesh.vertices[used][source], faces + offset, uv))
        offset += len(uv)
    vertices = np.concatenate([p[0] for p in parts])
    faces = np.concatenate([p[1] for p in parts])
    uv = np.concatenate([p[2] for p in parts])
    picture, inside = paint_flat(vertices, faces, uv, size, alpha=alpha)
    hole = (~inside).astype(np.uint8)
    painted = time.perf_counter()
    base = cv2.inpaint(picture[..., :3].copy(), hole, 3, cv2.INPAINT_TELEA)
    others = [
        cv2.inpaint(np.ascontiguousarray(picture[..., c]), hole, 1, cv2.INPAINT_TELEA)
        for c in (3, 4, 5)
    ]
    filled = time.perf_counter()
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.fromarray(np.dstack([base, others[2]])),
        metallicRoughnessTexture=Image.fromarray(
            np.dstack([np.zeros_like(others[0]), others[1], others[0]])
        ),
        alphaMode="BLEND" if alpha else "OPAQUE",
        doubleSided=True,
    )
    result = trimesh.Trimesh(
        vertices,
        faces,
        process=False,
        visual=trimesh.visual.TextureVisuals(uv=uv, material=material),
    )
    content = result.export(file_type="glb", extension_webp=True)
    packed = time.perf_counter()
    flat = uv[faces] * size
    return {
        "baseline_seconds": (unwrapped - free) + (filled - painted) + (packed - filled),
        "baseline_unwrap": unwrapped - free,
        "baseline_fill": filled - painted,
        "baseline_encode_pack": packed - filled,
        "baseline_clustering_free": free - start,
        "baseline_clusters": len(clusters),
        "baseline_bytes": len(content),
    } | {f"baseline_{k}": v for k, v in stretch(vertices[faces], flat, size).items()}


def cones(mesh: Mesh, cut_into: int | None) -> list[np.ndarray]:  # noqa: PLR0915
    """Groups of faces as upstream makes them before it calls xatlas, on a GPU.

    Written from its description, parameters included: in rounds, two neighbours become one where
    that costs both of them less than any other merger, and less than 90 degrees. The cost is the
    half angle of a cone around both cones of normals, in radians, and a tenth of the area, and
    1e-4 times the perimeter's square over the area.

    A smooth shape falls into about ten such groups, on each of which xatlas' time grows nearly
    with the square of the faces. With `cut_into`, a grid cuts them into about so many: that is
    kinder to xatlas than upstream is.
    """
    from trellis2_server.export.adjacency import twins

    corner = mesh.vertices[mesh.faces].astype(np.float64)
    axis = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    twice = np.linalg.norm(axis, axis=1)
    axis /= np.maximum(twice, 1e-30)[:, None]
    angle, area = np.zeros(len(axis)), 0.5 * twice
    group = np.arange(len(axis))
    twin = twins(mesh.faces, len(mesh.vertices)).astype(np.int64)
    half = np.flatnonzero(twin > np.arange(len(twin)))
    low, high = half // 3, twin[half] // 3
    side = corner[low, half % 3] - corner[low, (half + 1) % 3]
    length = np.linalg.norm(side, axis=1)
    while True:
        count = len(area)
        keys = np.minimum(low, high) * count + np.maximum(low, high)
        keys, where = np.unique(keys, return_inverse=True)
        length = np.bincount(where, length, len(keys))
        apart = keys // count != keys % count
        length, low, high = length[apart], (keys // count)[apart], (keys % count)[apart]
        rim = np.bincount(low, length, count) + np.bincount(high, length, count)
        between = np.arccos(np.clip((axis[low] * axis[high]).sum(1), -1, 1))
        begin = np.minimum(-angle[low], between - angle[high])
        end = np.maximum(angle[low], between + angle[high])
        both = area[low] + area[high]
        outline = (rim[low] + rim[high] - 2 * length) ** 2 / np.maximum(both, 1e-30)
        cost = 0.5 * (end - begin) + 0.1 * both + 1e-4 * outline
        rank = np.empty(len(cost), np.int64)
        rank[np.argsort(cost, kind="stable")] = np.arange(len(cost))
        best = np.full(count, len(cost))
        np.minimum.at(best, low, rank)
        np.minimum.at(best, high, rank)
        is_best = (cost <= np.pi / 2) & (best[low] == rank) & (best[high] == rank)
        if not is_best.any():
            break
        a, b = low[is_best], high[is_best]
        between, turn = between[is_best, None], 0.5 * (begin + end)[is_best, None]
        across = axis[b] - axis[a] * np.cos(between)
        across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-12)
        turned = axis[a] * np.cos(turn) + across * np.sin(turn)
        axis[a] = np.where(between < 1e-3, axis[a], turned)
        angle[a] = 0.5 * (end - begin)[is_best]
        area[a] += area[b]
        parent = np.arange(count)
        parent[b] = a
        names, parent = np.unique(parent, return_inverse=True)
        group, low, high = parent[group], parent[low], parent[high]
        axis, angle, area = axis[names], angle[names], area[names]
    if cut_into is not None:
        edge = float(np.sqrt(1.5 * twice.sum() / cut_into))
        cell = np.floor((corner.mean(1) - mesh.vertices.min(0)) / max(edge, 1e-9)).astype(np.int64)
        _, group = np.unique(np.column_stack([group, cell]), axis=0, return_inverse=True)
        group = group.reshape(-1)
    order = np.argsort(group, kind="stable")
    return np.split(mesh.faces[order], np.cumsum(np.bincount(group))[:-1])


def paint_flat(
    vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, size: int, *, alpha: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Six channels, uint8 [S, S, 6], and where a face is: the input of the inpainting."""
    from trellis2_server.export import bake
    from trellis2_server.export.unwrap import Atlas

    atlas = Atlas(
        np.ascontiguousarray(uv * size, np.float32),
        np.arange(len(uv), dtype=np.int32),
        np.ascontiguousarray(faces, np.int32),
        np.zeros(len(faces), np.int32),
        size,
    )
    owner = bake.raster(atlas, gutter=0)
    inside = owner >= 0
    middle = vertices[faces].mean(1)
    values = (attributes(middle, alpha=alpha).clip(0, 1) * 255).astype(np.uint8)
    picture = np.zeros((size, size, 6), np.uint8)
    picture[inside] = values[owner[inside]]
    return picture, inside


def validate(content: bytes) -> str:
    """What the Khronos validator says: "silent", its message codes, or why it did not run."""
    folder = os.environ.get("GLTF_VALIDATOR_DIR", str(Path(__file__).resolve().parents[1]))
    node = shutil.which("node")
    if node is None or not (Path(folder) / "node_modules" / "gltf-validator").is_dir():
        return "not run: needs node and gltf-validator (GLTF_VALIDATOR_DIR)"
    script = (
        "const v=require('gltf-validator'),fs=require('fs');"
        "v.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))"
        ".then(r=>console.log(JSON.stringify(r.issues.messages.map(m=>m.code))))"
    )
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.glb"
        path.write_bytes(content)
        done = subprocess.run(
            [node, "-e", script, str(path)], cwd=folder, capture_output=True, text=True, check=True
        )
    codes = json.loads(done.stdout)
    return "silent" if not codes else ",".join(codes)


class Pulse:
    """The longest time for which another thread got no turn: how long the lock was held."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat)

    def _beat(self) -> None:
        last = time.perf_counter()
        while not self._end.wait(0.002):
            now = time.perf_counter()
            self.longest = max(self.longest, now - last - 0.002)
            last = now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def peak_mb() -> float:
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def prepared(original: Mesh, args: argparse.Namespace) -> tuple[dict[str, object], Mesh]:
    """Cleaned and decimated: the fastest of `args.repeat`, and the mesh."""
    result: dict[str, object] = {}
    mesh, best, stall = original, float("inf"), 0.0
    for _ in range(args.repeat):
        start, spent = time.perf_counter(), Spent()
        with Pulse() as pulse:
            mesh = export.prepare(
                original,
                decimation_target=args.faces,
                remesh_resolution=args.resolution if args.remesh else None,
                report=spent,
            )
        seconds = time.perf_counter() - start
        stall = max(stall, pulse.longest)
        if seconds < best:
            best = seconds
            result = {"decimate_seconds": seconds, "prepare_stages": spent.seconds}
    result |= {
        "target_share": len(mesh.faces) / args.faces,
        "is_watertight": is_watertight(mesh),
        "stall_prepare_ms": 1000 * stall,
        "original_faces": len(original.faces),
        "faces": len(mesh.faces),
    }
    return result, mesh


def measure(args: argparse.Namespace) -> dict[str, object]:
    """One shape exported and judged, and upstream's side unless that is not wanted."""
    original = original_of(args)
    field = voxels(original, args.resolution, alpha=args.alpha)
    result, mesh = prepared(original, args)
    result["voxels"] = len(field.coords)
    result |= errors(original, mesh, args.resolution)
    best = float("inf")
    content = b""
    for _ in range(args.repeat):
        stages = Stages()
        start, cpu = time.perf_counter(), time.process_time()
        with Pulse() as pulse:
            content = export.textured_glb(
                mesh, field, original=original, texture_size=args.texture, report=stages
            )
        seconds = time.perf_counter() - start
        if seconds < best:
            best = seconds
            own = sum(stages.seconds.get(k, 0.0) for k in ("unwrap", "bake.3", "encode", "pack"))
            result |= {
                "seconds": seconds,
                "own_cpu_seconds": own,
                "all_threads_cpu_seconds": time.process_time() - cpu,
                "stages": stages.seconds,
                "stall_ms": 1000 * pulse.longest,
                "bytes": len(content),
                "peak_mb": peak_mb(),
            }
    if args.save:
        args.save.write_bytes(content)
    result |= judge(content, original, field)
    result["validator"] = validate(content)
    if not args.no_baseline:
        other, seconds = decimated_by_meshoptimizer(original, args.faces, args.repeat)
        apart = errors(original, other, args.resolution)
        result |= {f"baseline_{name}": value for name, value in apart.items()}
        result["baseline_decimate_seconds"] = seconds
        result["decimate_ratio"] = seconds / float(str(result["decimate_seconds"]))
        result |= baseline(mesh, args.texture, alpha=args.alpha, clusters_wanted=args.clusters)
        result["ratio"] = result["baseline_seconds"] / result["own_cpu_seconds"]
    return result


def judge_all(args: argparse.Namespace) -> None:
    """A table of the quality of all shapes: ours, then upstream's charts of the same meshes."""
    columns = ("psnr_base", "psnr_metal_rough", "psnr_alpha", "seam", "faces_without_uv",
               "points_without_data", "stretch_p99", "baseline_stretch_p99", "use",
               "baseline_use", "validator")  # fmt: skip
    print("| shape |", " | ".join(columns), "|")
    print("|---" * (len(columns) + 1) + "|")
    for shape in SHAPES + DUAL_GRIDS:
        args.shape = shape
        result = measure(args)
        cells = [result.get(name, "") for name in columns]
        cells = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
        print(f"| {shape} |", " | ".join(cells), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=200_000)
    parser.add_argument("--texture", type=int, default=2048)
    parser.add_argument("--original-faces", type=int, help="default: 3.5 times --faces")
    parser.add_argument("--shape", choices=(*SHAPES, *DUAL_GRIDS, "all"), default="blob")
    parser.add_argument("--mesh", type=Path, help="a mesh file instead of a shape")
    parser.add_argument("--remesh", action="store_true", help="at --resolution")
    parser.add_argument("--resolution", type=int, default=512, help="of the voxels")
    parser.add_argument("--alpha", action="store_true", help="a transparent base colour")
    parser.add_argument(
        "--clusters", type=int, help="cut the baseline's into about so many, see `cones`"
    )
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--repeat", type=int, default=1, help="take the fastest of so many")
    parser.add_argument("--save", type=Path, help="write the GLB here")
    parser.add_argument("--json", action="store_true", help="one line instead of a table")
    args = parser.parse_args()

    start = time.perf_counter()
    export.warm_up()
    warm = time.perf_counter() - start
    if args.shape == "all":
        judge_all(args)
        return
    result = {"warm_up_seconds": warm} | measure(args)
    if args.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:26} {value:.4g}" if isinstance(value, float) else f"{key:26} {value}")


if __name__ == "__main__":
    main()
