"""Mesh files, valid ones made by trimesh and invalid ones; and reading GLBs back."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import trimesh


def egg() -> trimesh.Trimesh:
    """Return a closed mesh of 1280 faces, twice as tall as wide."""
    ball = trimesh.creation.icosphere(3)
    ball.apply_scale([1, 2, 1])
    return ball


def two_nodes() -> trimesh.Scene:
    """Return an egg, moved along X, with a child node: a box, moved along Y and mirrored."""
    scene = trimesh.Scene()
    right = trimesh.transformations.translation_matrix([5, 0, 0])
    scene.add_geometry(egg(), node_name="egg", transform=right)
    up = trimesh.transformations.translation_matrix([0, 3, 0])
    up[0, 0] = -1
    scene.add_geometry(
        trimesh.creation.box(), node_name="box", parent_node_name="egg", transform=up
    )
    return scene


def load_scene(content: bytes) -> trimesh.Scene:
    """Read a GLB."""
    scene = trimesh.load(io.BytesIO(content), file_type="glb", process=False)
    assert isinstance(scene, trimesh.Scene)
    return scene


def as_bytes(model: Any, file_type: str) -> bytes:
    content = model.export(file_type=file_type)
    return content.encode() if isinstance(content, str) else content


def glb(tree: dict[str, Any], data: bytes = b"") -> bytes:
    """Return a GLB of this JSON and binary chunk, which may be invalid."""
    head = json.dumps(tree).encode()
    head += b" " * (-len(head) % 4)
    data += bytes(-len(data) % 4)
    body = struct.pack("<I4s", len(head), b"JSON") + head
    if data:
        body += struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def triangle(**changes: Any) -> dict[str, Any]:
    """Return the glTF JSON of one triangle, with parts replaced by name."""
    tree: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"byteLength": 36}],
    }
    return tree | changes


CORNERS = struct.pack("<9f", 0, 0, 0, 1, 0, 0, 0, 1, 0)


def ply(vertices: int, faces: int, body: bytes = b"", form: str = "binary_little_endian") -> bytes:
    return (
        f"ply\nformat {form} 1.0\nelement vertex {vertices}\nproperty float x\nproperty float y\n"
        f"property float z\nelement face {faces}\nproperty list uchar int vertex_indices\n"
        "end_header\n"
    ).encode() + body
