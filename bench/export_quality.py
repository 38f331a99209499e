"""Quality of an exported GLB: colours, seams, distortion, distance from the original."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from trellis2_server.mesh import Mesh, VoxelField


def read_glb(content: bytes) -> dict[str, np.ndarray]:
    """Return positions in the model frame, uv in [0, 1] with v downward, faces and images."""
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


def sample_image(picture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Interpolate an image at uv [N, 2], clamped at the border: float [N, C] in [0, 255]."""
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
    """Measure PSNR against the field at the closest points of the original, seams and distortion.

    The field is sampled with the exporter's own functions, which tests compare with independent
    code.
    """
    from tests.support.sampling import sample_field

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
    wanted = 255 * sample_field(p, field, original)
    have = sample_image(file["base"], uv)
    result = {"psnr_base": psnr(have[:, :3] - wanted[:, :3])}
    if np.ptp(wanted[:, 5]) > 1:
        result["psnr_alpha"] = psnr(have[:, 3] - wanted[:, 5])
    if "metal" in file:
        metal = sample_image(file["metal"], uv)
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
    """Return the mean colour difference across the borders of charts, of 255."""
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
        first = sample_image(file["base"], file["uv"][a[:, 0]] * (1 - t) + file["uv"][a[:, 1]] * t)
        second = sample_image(file["base"], file["uv"][b[:, 0]] * (1 - t) + file["uv"][b[:, 1]] * t)
        errors.append(np.abs(first - second)[:, :3].mean(1))
    return float(np.average(np.mean(errors, axis=0), weights=length + 1e-12))


def stretch(corner: np.ndarray, flat: np.ndarray, size: int) -> dict[str, float]:
    """Measure the stretch of the atlas and the covered share of the texture.

    The stretch is the larger singular value of the map from texture to surface: its 99th percentile
    over its median.

    Args:
        corner: float [F, 3, 3], positions in space.
        flat: float [F, 3, 2], positions in texels.
        size: edge of the texture, texels.
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


def errors(original: Mesh, mesh: Mesh, resolution: int) -> dict[str, float]:
    """Measure the distances of the two surfaces from each other, in voxels."""
    from trellis2_server.export.deviation import deviation

    lost, added = deviation(original, mesh, resolution), deviation(mesh, original, resolution)
    return {
        "error_p99_voxels": lost.p99,
        "error_max_voxels": lost.largest,
        "added_p99_voxels": added.p99,
        "added_max_voxels": added.largest,
    }


def is_watertight(mesh: Mesh) -> bool:
    """Return whether each edge has two faces that traverse it in opposite directions."""
    from trellis2_server.export import adjacency

    twin = adjacency.twins(mesh.faces, len(mesh.vertices))
    return adjacency.is_watertight(mesh.faces, twin)


def validate(content: bytes) -> str:
    """Run the Khronos validator; return "silent", its message codes, or why it did not run."""
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
