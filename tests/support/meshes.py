"""Mesh files as clients write them, made by trimesh, and broken ones."""

from __future__ import annotations

import json
import struct
from typing import Any

import trimesh


def egg() -> trimesh.Trimesh:
    """Closed, 1280 faces, twice as tall as wide."""
    ball = trimesh.creation.icosphere(3)
    ball.apply_scale([1, 2, 1])
    return ball


def two_nodes() -> trimesh.Scene:
    """An egg that stands aside, and in it, further up and mirrored, a box."""
    scene = trimesh.Scene()
    aside = trimesh.transformations.translation_matrix([5, 0, 0])
    scene.add_geometry(egg(), node_name="egg", transform=aside)
    up = trimesh.transformations.translation_matrix([0, 3, 0])
    up[0, 0] = -1
    scene.add_geometry(
        trimesh.creation.box(), node_name="box", parent_node_name="egg", transform=up
    )
    return scene


def as_bytes(model: Any, file_type: str) -> bytes:
    content = model.export(file_type=file_type)
    return content.encode() if isinstance(content, str) else content


def glb(tree: dict[str, Any], data: bytes = b"") -> bytes:
    """A GLB of that JSON and binary chunk, whatever they say."""
    head = json.dumps(tree).encode()
    head += b" " * (-len(head) % 4)
    data += bytes(-len(data) % 4)
    body = struct.pack("<I4s", len(head), b"JSON") + head
    if data:
        body += struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def triangle(**changes: Any) -> dict[str, Any]:
    """The JSON of one triangle; each change replaces a part, by its name."""
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
