"""Quality of a GLB's normal map and ambient occlusion, at random points of its surface.

Closest points and rays are found with the exporter's own functions, which tests compare with
independent code. The occlusion is compared with 1,024 rays from each point.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.export_quality import sample_image
from trellis2_server.export import occlusion
from trellis2_server.export.adjacency import is_watertight, twins
from trellis2_server.export.bake import index_faces
from trellis2_server.export.clean import clean
from trellis2_server.export.geometry import smooth_normals
from trellis2_server.export.kernels import bake as kernels
from trellis2_server.export.triangle_tree import TriangleTree
from trellis2_server.inputs.meshes import Glb
from trellis2_server.mesh import Mesh

POINTS, RAYS = 20_000, 1024


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


class Surface:
    """Random points of the first mesh of an uncompressed GLB, in the model's frame."""

    def __init__(self, content: bytes, count: int) -> None:
        self._glb = Glb(content)
        (primitive,) = self._glb.json["meshes"][0]["primitives"]
        rng = np.random.default_rng(0)
        self._rows = {name: self._accessor(at) for name, at in primitive["attributes"].items()}
        self.faces = self._accessor(primitive["indices"]).astype(np.int32).reshape(-1, 3)
        corner = self._rows["POSITION"][self.faces]
        cross = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        area = np.linalg.norm(cross, axis=1)
        chosen = rng.choice(len(area), count, p=area / area.sum())
        self.face_normal = _to_model(unit(cross[chosen]))
        self._corners = self.faces[chosen]
        self._share = rng.dirichlet([1, 1, 1], count)[..., None]
        self.place = _to_model(self._between("POSITION"))
        self.vertices = _to_model(self._rows["POSITION"]).astype(np.float32)

    def shaded(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the normals that a viewer shades with the normal map, and without it."""
        out, along = unit(self._between("NORMAL")), unit(self._between("TANGENT")[:, :3])
        up = np.cross(out, along) * self._rows["TANGENT"][self._corners[:, 0], 3:]
        seen = self.texture("normalTexture") / 127.5 - 1
        turned = seen[:, :1] * along + seen[:, 1:2] * up + seen[:, 2:] * out
        return _to_model(unit(turned)), _to_model(out)

    def texture(self, role: str) -> np.ndarray:
        """Return the pixels of a texture of the material at the points, 0 … 255."""
        number = self._glb.json["materials"][0][role]["index"]
        image = self._glb.item("images", self._glb.item("textures", number)["source"])
        with Image.open(io.BytesIO(self._glb.view(image["bufferView"]))) as opened:
            pixels = np.asarray(opened.convert("RGB")).astype(float)
        return sample_image(pixels, self._between("TEXCOORD_0"))

    def _between(self, name: str) -> np.ndarray:
        return (self._rows[name][self._corners] * self._share).sum(1)

    def _accessor(self, number: int) -> np.ndarray:
        item = self._glb.item("accessors", number)
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[item["type"]]
        dtype = {5123: "<u2", 5125: "<u4", 5126: "<f4"}[item["componentType"]]
        values = np.frombuffer(bytes(self._glb.view(item["bufferView"])), dtype)
        return values[: item["count"] * width].reshape(-1, width).astype(float)


def _to_model(rows: np.ndarray) -> np.ndarray:
    return np.stack([rows[:, 0], -rows[:, 2], rows[:, 1]], 1)


def judge_normals(content: bytes, original: Mesh) -> dict[str, float]:
    """Return the median angle to the full surface's smooth normals, with the map and without."""
    surface = Surface(content, POINTS)
    full = clean(original)
    index, normals = index_faces(full), smooth_normals(full)
    wanted = np.empty((POINTS, 3))
    for i, (x, y, z) in enumerate(surface.place):
        face, *hit = kernels.closest_point(*index, x, y, z, np.int64(-1))
        corner = full.vertices[full.faces[face]].astype(float)
        share, *_ = np.linalg.lstsq(corner.T, np.array(hit), rcond=None)
        wanted[i] = share @ normals[full.faces[face]]
    wanted = unit(wanted)
    angles = [
        float(np.median(np.degrees(np.arccos(np.clip((each * wanted).sum(1), -1, 1)))))
        for each in surface.shaded()
    ]
    return {
        "normal_degrees": angles[0],
        "normal_degrees_without": angles[1],
        "normal_gain": angles[1] / angles[0],
    }


def judge_occlusion(content: bytes) -> dict[str, float]:
    """Return the error (RMSE) of the occlusion against 1,024 rays, of 1."""
    surface = Surface(content, POINTS // 4)
    mesh = Mesh(np.ascontiguousarray(surface.vertices), np.ascontiguousarray(surface.faces))
    tree = TriangleTree(mesh)
    points = surface.place.astype(np.float32), surface.face_normal.astype(np.float32)
    wanted = occlusion.openness(tree, *points, RAYS)
    _, same = np.unique(mesh.vertices, axis=0, return_inverse=True)
    welded = np.ascontiguousarray(same.reshape(-1)[mesh.faces].astype(np.int32))
    if not is_watertight(welded, twins(welded, len(mesh.vertices))):
        dark = np.flatnonzero(wanted < occlusion.DARK)
        wanted = occlusion.openness(tree, *points, RAYS, (dark, wanted))
    have = surface.texture("occlusionTexture")[:, 0] / 255
    return {"occlusion_rmse": float(np.sqrt(((have - wanted) ** 2).mean()))}
