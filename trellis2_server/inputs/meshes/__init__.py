"""Mesh files: read a client's file into a bounded scene in the file's own frame.

    reading          recognizes the format; a new format goes into its table
    glb … stl        one reader per format
    glb_nodes        the tree of nodes of a GLB
    glb_instances, glb_transforms  parts of that
    glb_meshes       the triangles of a mesh of a GLB
    glb_primitives, glb_morphs, glb_skins  parts of that
    glb_accessors    rows of numbers of a GLB
    glb_container    chunks and buffer views of a GLB
    glb_json, data_uris  parts of that
    obj_blocks, obj_lines, ply_text, ply_binary, ply_rows  parts of two readers
    text, numbers    lines and numbers of text files, many at a time
    polygons         polygons → triangles
    shading, seams   normals and texture coordinates of the corners of polygons
    placements       where nodes place meshes
    scene            the result, `Scene`, and the limits on its size
    model_frame      scene → one mesh in the model frame
    metadata         what is kept of names and extras
    transfer         scene and mesh ↔ a few arrays, for another process
    welding          merges vertices at the same position
    visibility       leaves out faces that show nothing

The readers compare the sizes that a file declares with its actual size before they allocate
memory, which libraries do not do.
"""

from trellis2_server.inputs.meshes.glb_container import Glb
from trellis2_server.inputs.meshes.model_frame import to_model_frame
from trellis2_server.inputs.meshes.placements import (
    has_shared_meshes,
    placed_bounds,
    separate_placements,
)
from trellis2_server.inputs.meshes.reading import check_beginning, read_scene
from trellis2_server.inputs.meshes.scene import Axis, Part, Scene
from trellis2_server.inputs.meshes.transfer import pack_scene, unpack_scene

__all__ = [
    "Axis",
    "Glb",
    "Part",
    "Scene",
    "check_beginning",
    "has_shared_meshes",
    "pack_scene",
    "placed_bounds",
    "read_scene",
    "separate_placements",
    "to_model_frame",
    "unpack_scene",
]
