"""What TRELLIS.2's own exporter does on the CPU, and meshoptimizer's decimation, as baselines.

Needs xatlas, meshoptimizer, opencv-python-headless and trimesh.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.export_quality import stretch
from bench.export_shapes import attributes
from trellis2_server.mesh import Mesh


def decimated_by_meshoptimizer(original: Mesh, target: int, repeat: int) -> tuple[Mesh, float]:
    """Decimate with meshoptimizer, the fastest library; return the mesh and the shortest time."""
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


def baseline(
    mesh: Mesh, size: int, *, alpha: bool, clusters_wanted: int | None
) -> dict[str, float]:
    """Measure upstream's CPU steps on the same mesh, seconds."""
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
    # With xatlas' default packing: it takes far longer for a given resolution.
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
    """Group faces like upstream does on a GPU before it calls xatlas.

    Written from its description, with its parameters: in rounds, two adjacent groups are merged if
    that costs both of them less than any other merger, and less than 90 degrees. The cost is the
    half angle of a cone around both cones of normals, in radians, plus a tenth of the area, plus
    1e-4 times the square of the perimeter over the area.

    A smooth shape has about ten such groups. xatlas' time grows nearly with the square of the faces
    of a group. `cut_into` splits them with a grid into about that many groups, which is faster than
    what upstream does.
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
    """Return six channels, uint8 [S, S, 6], and the covered texels: the input of inpainting."""
    from trellis2_server.export import bake
    from trellis2_server.export.atlas import Atlas

    atlas = Atlas(
        np.ascontiguousarray(uv * size, np.float32),
        np.arange(len(uv), dtype=np.int32),
        np.ascontiguousarray(faces, np.int32),
        np.zeros(len(faces), np.int32),
        size,
    )
    owner = bake.rasterize(atlas, gutter=0)
    inside = owner >= 0
    middle = vertices[faces].mean(1)
    values = (attributes(middle, alpha=alpha).clip(0, 1) * 255).astype(np.uint8)
    picture = np.zeros((size, size, 6), np.uint8)
    picture[inside] = values[owner[inside]]
    return picture, inside
