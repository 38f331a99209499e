"""Files that cost a reader much: each takes memory in proportion to its size, or is refused."""

from __future__ import annotations

import functools
import json
import re
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from tests.support.hostile_meshes import COSTLY
from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes import pack_scene, read_scene, to_model_frame, unpack_scene

if TYPE_CHECKING:
    from collections.abc import Generator

    from trellis2_server.inputs.meshes import Scene
    from trellis2_server.mesh import Mesh

MAX_BYTES = 5_000_000

#: Of memory for a byte of the file. Before the bounds, some took 200.
BYTES_PER_BYTE = 100
LARGE = (
    "obj_of_one_long_face", "obj_of_backslashes", "obj_of_long_names", "ply_of_one_long_face",
    "ply_of_one_long_face_among_others", "ply_of_many_vertex_elements", "glb_of_many_primitives",
    "glb_of_empty_chunks", "glb_of_many_children", "glb_of_deep_nodes", "glb_of_deep_json",
    "glb_of_one_byte_vertices", "glb_of_a_long_name",
)  # fmt: skip
REFUSED = {
    "obj_of_backslashes": "has no triangle",
    "obj_of_empty_lines": "has no triangle",
    "obj_of_faces_without_corners": "has no triangle",
    "obj_of_one_long_face": "line 5 is over the limit of 2097152 bytes",
    "obj_of_long_faces": "too many concave faces",
    "ply_of_one_long_face": "limit of 65536 corners",
    "ply_of_one_long_face_among_others": "limit of 65536 corners",
    "ply_text_of_one_long_face": "line 13 is over the limit of 2097152 bytes",
    "ply_of_byte_faces": "[0-9]+ faces in a file of [0-9]+ bytes",
    "glb_of_one_strip": "[0-9]+ faces in a file of [0-9]+ bytes",
    "glb_of_shared_vertices": "480000 faces in a file of [0-9]+ bytes",
    "obj_of_a_long_index": "line 5 is over the limit of 2097152 bytes",
    "obj_of_a_long_number": "line 1 is over the limit of 2097152 bytes",
    "ply_of_many_vertex_elements": 'declares the element "vertex" twice',
    "ply_of_many_elements": "cut short",
    "glb_of_deep_json": "JSON of the GLB is not valid",
    "glb_of_a_long_number": "JSON of the GLB is not valid",
    "glb_of_many_children": "limit of 10000 nodes",
    "glb_of_many_primitives": "limit of 4000000 faces",
    "glb_of_lines": "limit of 10000 nodes",
    "glb_of_growing_nodes": "exceed the range of numbers",
    "no_area": "has no surface",
}


@pytest.mark.costly
@pytest.mark.parametrize("name", LARGE)
def test_a_costly_file_takes_memory_in_proportion_to_its_size(name: str) -> None:
    content = COSTLY[name]()
    if name == "obj_of_one_long_face":
        content = content[:400_000]  # counting the memory takes time for each word
    tracemalloc.start()
    try:
        to_model_frame(read_scene(content))
    except InputError as error:
        assert str(error).startswith("mesh: ")  # noqa: PT017 - the file may also be read
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # 30 MB: nodes, which are bounded by their number.
    assert peak < BYTES_PER_BYTE * len(content) + 30_000_000


@functools.cache
def read(name: str) -> tuple[int, Scene, Mesh] | InputError:
    """Size, scene and mesh of a costly file, or why it is refused."""
    content = COSTLY[name]()
    try:
        scene = read_scene(content)
        return len(content), scene, to_model_frame(scene)
    except InputError as error:
        assert len(content) < MAX_BYTES
        return error


@pytest.fixture(scope="module", autouse=True)
def _nothing_kept() -> Generator[None]:
    yield
    read.cache_clear()  # other tests look for large objects


@pytest.mark.costly
@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_a_costly_file_is_refused_for_what_it_is(name: str, reason: str) -> None:
    found = read(name)
    assert isinstance(found, InputError)
    assert re.search(f"^mesh: .*{reason}", str(found))


@pytest.mark.costly
@pytest.mark.parametrize("name", COSTLY)
def test_every_costly_file_is_refused_or_becomes_a_mesh_that_can_be_sent(name: str) -> None:
    found = read(name)
    if isinstance(found, InputError):
        assert str(found).startswith("mesh: ")
        return
    size, scene, mesh = found
    assert size < MAX_BYTES
    assert abs(mesh.vertices).max() <= 0.5
    meta, arrays = pack_scene(scene, mesh)
    assert len(json.dumps(meta)) < 200
    assert unpack_scene(meta, arrays)[0].nodes == scene.nodes
