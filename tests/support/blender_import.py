"""Import files in Blender: `python blender_import.py FOLDER FILE …`, with a Python that has `bpy`.

Writes, for each FILE, `FILE.npz` into FOLDER with the triangles as Blender shows them, in metres
and with Z up, and `FILE.json` with what Blender made of the rest.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import bpy
import numpy as np

IMPORTERS = {
    ".glb": lambda path: bpy.ops.import_scene.gltf(filepath=path),
    ".gltf": lambda path: bpy.ops.import_scene.gltf(filepath=path),
    ".obj": lambda path: bpy.ops.wm.obj_import(filepath=path),
    ".ply": lambda path: bpy.ops.wm.ply_import(filepath=path),
    ".stl": lambda path: bpy.ops.wm.stl_import(filepath=path),
    ".usdz": lambda path: bpy.ops.wm.usd_import(filepath=path),
}


def triangles(scene: Any) -> tuple[list[Any], list[Any]]:
    """Return the corners of all triangles [F, 3, 3], and the normals there, in the world."""
    corners, normals = [], []
    for found in scene.objects:
        if found.type != "MESH":
            continue
        mesh = found.data
        world = np.array(found.matrix_world)
        points = np.empty(3 * len(mesh.vertices), np.float32)
        mesh.vertices.foreach_get("co", points)
        points = points.reshape(-1, 3) @ world[:3, :3].T + world[:3, 3]
        loops = np.empty(len(mesh.loops), np.int32)
        mesh.loops.foreach_get("vertex_index", loops)
        directions = np.empty(3 * len(mesh.loops), np.float32)
        mesh.corner_normals.foreach_get("vector", directions)
        directions = directions.reshape(-1, 3) @ np.linalg.inv(world[:3, :3])
        mesh.calc_loop_triangles()
        rows = np.empty(3 * len(mesh.loop_triangles), np.int32)
        mesh.loop_triangles.foreach_get("loops", rows)
        corners.append(points[loops[rows]].reshape(-1, 3, 3))
        normals.append(directions[rows].reshape(-1, 3, 3))
    return corners, normals


def socket(node: Any, name: str) -> Any:
    """Return the image of a shader's input, its size and colour space, or its value."""
    entry = node.inputs[name]
    seen = entry
    while seen.is_linked:
        source = seen.links[0].from_node
        if source.type == "TEX_IMAGE":
            image = source.image
            return {"image": [*image.size], "space": image.colorspace_settings.name}
        if source.type == "VERTEX_COLOR" or not any(each.is_linked for each in source.inputs):
            return {"node": source.type}
        seen = next(each for each in source.inputs if each.is_linked)
    value = entry.default_value
    return [*value] if hasattr(value, "__len__") else value


def material(found: Any) -> dict[str, Any]:
    shader = next((n for n in found.node_tree.nodes if n.type == "BSDF_PRINCIPLED"), None)
    if shader is None:
        return {"shaders": [node.type for node in found.node_tree.nodes]}
    names = ("Base Color", "Metallic", "Roughness", "Alpha")
    return {name: socket(shader, name) for name in names}


def main(folder: str, *files: str) -> None:
    for file in files:
        path = Path(file)
        bpy.ops.wm.read_factory_settings(use_empty=True)
        IMPORTERS[path.suffix](str(path))
        bpy.context.view_layer.update()
        scene = bpy.context.scene
        corners, normals = triangles(scene)
        meshes = [each.data for each in scene.objects if each.type == "MESH"]
        about = {
            "vertices": sum(len(mesh.vertices) for mesh in meshes),
            "polygons": sum(len(mesh.polygons) for mesh in meshes),
            "uv": [len(mesh.uv_layers) for mesh in meshes],
            "colors": [
                [each.name, each.domain, each.data_type]
                for mesh in meshes
                for each in mesh.color_attributes
            ],
            "materials": [
                material(each) for mesh in meshes for each in mesh.materials if each is not None
            ],
            "smooth": [bool(each.use_smooth) for mesh in meshes for each in mesh.polygons[:1]],
        }
        out = Path(folder) / path.name
        np.savez(f"{out}.npz", corners=np.concatenate(corners), normals=np.concatenate(normals))
        Path(f"{out}.json").write_text(json.dumps(about), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
