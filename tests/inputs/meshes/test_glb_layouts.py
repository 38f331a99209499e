"""GLB files in every layout that glTF allows: the same triangles, whatever the program wrote."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import trimesh

from tests.support.meshes import glb, triangle
from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes import read_scene

#: glTF's component types and `struct`'s codes for them.
COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}


class GltfFile:
    """Builds a GLB whose accessors have random offsets and strides."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.data = b""
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, rows: np.ndarray, component: int, *, normalized: bool = False) -> int:
        """Add rows as an accessor; return its index."""
        rows = rows.astype(COMPONENTS[component])
        lead, inner = (4 * int(at) for at in self.random.integers(0, 3, 2))
        width = rows.dtype.itemsize * rows.shape[1]
        stride = -(-width // 4) * 4 + lead if rows.shape[1] > 1 else width
        content = bytes(inner) + b"".join(row.tobytes().ljust(stride, b"\x55") for row in rows)
        view: dict[str, Any] = {"buffer": 0, "byteLength": len(content)}
        self.data += bytes(lead)
        if self.data or self.random.random() < 0.5:
            view["byteOffset"] = len(self.data)
        if stride != width:
            view["byteStride"] = stride
        self.data += content + bytes(-len(content) % 4)
        accessor: dict[str, Any] = {
            "bufferView": len(self.views),
            "componentType": component,
            "count": len(rows),
            "type": {1: "SCALAR", 2: "VEC2", 3: "VEC3"}[rows.shape[1]],
        }
        if inner:
            accessor["byteOffset"] = inner
        if normalized:
            accessor["normalized"] = True
        self.views.append(view)
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def to_bytes(self, **tree: Any) -> bytes:
        buffers = [{"byteLength": len(self.data)}]
        parts = {"accessors": self.accessors, "bufferViews": self.views, "buffers": buffers}
        return glb(triangle(**parts, **tree), self.data)


@pytest.mark.parametrize("seed", range(16))
def test_a_glb_of_any_layout_is_read_as_trimesh_reads_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    file = GltfFile(random)
    vertices = 12
    positions = random.normal(size=(vertices, 3)).astype(np.float32)
    normals = random.normal(size=(vertices, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    uv = random.uniform(0, 1, (vertices, 2)).astype(np.float32)
    attributes = {"POSITION": file.add(positions, 5126)}
    if seed % 2:
        attributes["NORMAL"] = file.add(normals, 5126)
    if seed % 4 >= 2:
        attributes["TEXCOORD_0"] = file.add(uv, 5126)
    primitive: dict[str, Any] = {"attributes": attributes}
    indices = np.arange(vertices)
    if seed % 3:
        indices = random.permutation(vertices)
        kind = (5121, 5123, 5125)[seed % 3 + (seed > 8) - 1]
        primitive["indices"] = file.add(indices[:, None], kind)
    content = file.to_bytes(meshes=[{"primitives": [primitive]}])
    (part,) = read_scene(content).parts
    assert part.faces.tolist() == indices.reshape(-1, 3).tolist()
    np.testing.assert_array_equal(part.positions, positions)
    (known,) = trimesh.load(io.BytesIO(content), file_type="glb", process=False).geometry.values()
    np.testing.assert_array_equal(known.vertices, part.positions)
    np.testing.assert_array_equal(known.faces, part.faces)
    assert (part.normals is None) == ("NORMAL" not in attributes)
    assert (part.uv is None) == ("TEXCOORD_0" not in attributes)
    if part.normals is not None:
        np.testing.assert_allclose(part.normals, normals, atol=1e-6)
    if part.uv is not None:
        np.testing.assert_array_equal(part.uv, uv)


@pytest.mark.parametrize(
    ("component", "stored", "read"),
    [
        (5120, [-128, -127, 0, 64, 127], [-1, -1, 0, 64 / 127, 1]),
        (5121, [0, 1, 255], [0, 1 / 255, 1]),
        (5122, [-32768, -32767, 0, 32767], [-1, -1, 0, 1]),
        (5123, [0, 1, 65535], [0, 1 / 65535, 1]),
    ],
)
@pytest.mark.parametrize("normalized", [True, False])
def test_integers_are_normalized_as_gltf_says(
    component: int, stored: list[int], read: list[float], *, normalized: bool
) -> None:
    file = GltfFile(np.random.default_rng(0))
    rows = np.array([[each, 0, 0] for each in stored] + [[0, 1, 0], [0, 0, 1]])
    attributes = {"POSITION": file.add(rows, component, normalized=normalized)}
    primitive = {"attributes": attributes, "mode": 5}
    (part,) = read_scene(file.to_bytes(meshes=[{"primitives": [primitive]}])).parts
    wanted = read if normalized else stored
    np.testing.assert_allclose(part.positions[: len(stored), 0], wanted, rtol=1e-6)


def test_normals_of_any_length_are_unit_vectors_and_invalid_ones_point_up() -> None:
    file = GltfFile(np.random.default_rng(0))
    stored = [
        [0, 0, 1.9], [0, 0.6, 0], [0, 0.4, 0], [0, 2.1, 0], [float("nan"), 0, 0], [0, 0, 0],
    ]  # fmt: skip
    rows = np.eye(6, 3)
    primitive = {
        "attributes": {"POSITION": file.add(rows, 5126), "NORMAL": file.add(np.array(stored), 5126)}
    }
    (part,) = read_scene(file.to_bytes(meshes=[{"primitives": [primitive]}])).parts
    assert part.normals is not None
    np.testing.assert_allclose(part.normals[:2], [[0, 0, 1], [0, 1, 0]], atol=1e-6)
    np.testing.assert_array_equal(part.normals[2:], [[0, 0, 1]] * 4)


def test_texture_coordinates_that_are_not_finite_are_zero() -> None:
    file = GltfFile(np.random.default_rng(0))
    uv = np.array([[0.25, float("inf")], [float("nan"), 0.5], [1, 1]])
    primitive = {
        "attributes": {"POSITION": file.add(np.eye(3), 5126), "TEXCOORD_0": file.add(uv, 5126)}
    }
    (part,) = read_scene(file.to_bytes(meshes=[{"primitives": [primitive]}])).parts
    assert part.uv is not None
    assert part.uv.tolist() == [[0.25, 0], [0, 0.5], [1, 1]]


def test_normals_and_texture_coordinates_of_few_used_vertices_follow_them() -> None:
    file = GltfFile(np.random.default_rng(0))
    random = np.random.default_rng(1)
    positions, uv = random.normal(size=(20, 3)), random.uniform(size=(20, 2))
    normals = random.normal(size=(20, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    corners = [19, 4, 11, 4, 19, 7]
    primitive = {
        "attributes": {
            "POSITION": file.add(positions, 5126),
            "NORMAL": file.add(normals, 5126),
            "TEXCOORD_0": file.add(uv, 5126),
        },
        "indices": file.add(np.array(corners)[:, None], 5121),
    }
    (part,) = read_scene(file.to_bytes(meshes=[{"primitives": [primitive]}])).parts
    assert part.normals is not None
    assert part.uv is not None
    assert len(part.positions) == 4
    flat = part.faces.ravel()
    np.testing.assert_allclose(part.positions[flat], positions[corners], rtol=1e-6)
    np.testing.assert_allclose(part.normals[flat], normals[corners], atol=1e-6)
    np.testing.assert_allclose(part.uv[flat], uv[corners], rtol=1e-6)


def test_meshes_keep_their_names_and_nodes_refer_to_them() -> None:
    file = GltfFile(np.random.default_rng(0))
    place, turned = file.add(np.eye(3), 5126), file.add(np.eye(3)[::-1], 5126)
    meshes = [
        {"name": "first", "primitives": [{"attributes": {"POSITION": place}}] * 2},
        {"name": "lines", "primitives": [{"attributes": {"POSITION": place}, "mode": 1}]},
        {"name": "unused", "primitives": [{"attributes": {"POSITION": place}}]},
        {"primitives": [{"attributes": {"POSITION": turned}}]},
    ]
    nodes: list[dict[str, Any]] = [
        {"mesh": 3, "children": [2, 1]},
        {"mesh": 0, "name": "b", "translation": [1, 2, 3]},
        {"mesh": 0, "name": "a", "translation": [4, 5, 6]},
        {"mesh": 1, "name": "c"},
    ]
    scene = read_scene(file.to_bytes(meshes=meshes, nodes=nodes, scenes=[{"nodes": [3, 0]}]))
    assert scene.meshes == ("first", None)
    assert scene.nodes == (
        {"name": "c"},
        {"children": [2, 3], "mesh": 1},
        {"name": "a", "translation": [4, 5, 6], "mesh": 0},
        {"name": "b", "translation": [1, 2, 3], "mesh": 0},
    )
    assert scene.roots == (0, 1)
    assert [part.mesh for part in scene.parts] == [0, 0, 1]
    # A mesh of several nodes is placed by the first of them.
    assert scene.parts[0].placement[:3, 3].tolist() == [4, 5, 6]
    assert (scene.is_smooth, scene.is_double_sided) == (False, False)


@pytest.mark.parametrize(
    ("tree", "roots"),
    [
        ({"scenes": [{"nodes": [0]}, {"nodes": [1]}], "scene": 1}, ["b"]),
        ({"scenes": [{"nodes": [0]}, {"nodes": [1]}]}, ["a"]),
        ({"scenes": []}, ["a", "b"]),
    ],
)
def test_the_default_scene_is_read(tree: dict[str, Any], roots: list[str]) -> None:
    file = GltfFile(np.random.default_rng(0))
    place = file.add(np.eye(3), 5126)
    nodes: list[dict[str, Any]] = [
        {"name": "a", "mesh": 0, "children": [2]},
        {"name": "b", "mesh": 0},
        {"name": "child"},
    ]
    meshes = [{"primitives": [{"attributes": {"POSITION": place}}]}]
    scene = read_scene(file.to_bytes(meshes=meshes, nodes=nodes, **tree))
    assert [scene.nodes[root]["name"] for root in scene.roots] == roots


@pytest.mark.parametrize("flags", [[False, True], [False, False], [1]])
def test_a_material_decides_whether_both_sides_are_seen(flags: list[object]) -> None:
    file = GltfFile(np.random.default_rng(0))
    meshes = [{"primitives": [{"attributes": {"POSITION": file.add(np.eye(3), 5126)}}]}]
    content = file.to_bytes(meshes=meshes, materials=[{"doubleSided": flag} for flag in flags])
    assert read_scene(content).is_double_sided == (True in [flag is True for flag in flags])


def test_only_glb_and_stl_have_flat_faces_without_normals() -> None:
    square = b"v 0 0 0\nv 1 0 0\nv 1 1 0\nf 1 2 3\n"
    assert read_scene(square).is_smooth
    box = trimesh.creation.box()
    for kind, is_smooth in (("ply", True), ("stl", False), ("glb", False)):
        assert read_scene(box.export(file_type=kind)).is_smooth == is_smooth, kind


def _one(file: GltfFile, **changes: Any) -> bytes:
    """A GLB of one face with a normal for each corner; the first view or accessor changed."""
    primitive = {
        "attributes": {
            "POSITION": file.add(np.eye(3), 5126),
            "NORMAL": file.add(np.eye(3), 5126),
        },
        "indices": file.add(np.array([[0], [1], [2]]), 5123),
    }
    for name, change in changes.items():
        where, at = name.rsplit("_", 1)
        getattr(file, where)[int(at)] |= change
    return file.to_bytes(meshes=[{"primitives": [primitive]}])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"accessors_0": {"type": "VEC2"}}, "should be VEC3"),
        ({"accessors_0": {"count": 4}}, r"accessors\[0\] of the GLB declares more data than"),
        ({"accessors_0": {"count": 0}}, "not valid"),
        ({"accessors_1": {"count": 2}}, r"primitives\[0\] of the GLB has 3 vertices but 2 normals"),
        ({"accessors_2": {"componentType": 5122}}, "not unsigned integers"),
        ({"accessors_2": {"componentType": 5126}}, "more data than it contains"),
        ({"views_0": {"byteStride": 11}}, r"rows of accessors\[0\] of the GLB overlap"),
        ({"views_0": {"buffer": 1}}, r"refers to buffers\[1\], which it does not have"),
        ({"views_2": {"byteLength": 10_000}}, "more data than it contains"),
        ({"views_2": {"byteOffset": 10_000}}, "more data than it contains"),
    ],
)
def test_what_an_accessor_must_not_be_is_named(changes: dict[str, Any], reason: str) -> None:
    file = GltfFile(np.random.default_rng(0))
    with pytest.raises(InputError, match=reason):
        read_scene(_one(file, **changes))


def test_an_accessor_may_end_where_its_view_and_the_chunk_end() -> None:
    """One byte less, and it has more data than it contains."""
    for cut, is_read in ((0, True), (1, False)):
        data = np.arange(9, dtype="<f4").tobytes()
        tree = triangle(
            accessors=[{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
            bufferViews=[{"buffer": 0, "byteLength": 36 - cut}],
        )
        content = glb(tree, data)
        if is_read:
            assert len(read_scene(content).parts[0].positions) == 3
        else:
            with pytest.raises(InputError, match="more data"):
                read_scene(content)
