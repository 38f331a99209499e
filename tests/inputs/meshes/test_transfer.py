from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.meshes import as_bytes, two_nodes
from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes import (
    Axis,
    Part,
    Scene,
    pack_scene,
    read_scene,
    to_model_frame,
    unpack_scene,
)
from trellis2_server.inputs.meshes.metadata import MAX_DEPTH
from trellis2_server.inputs.meshes.scene import MAX_FACES
from trellis2_server.inputs.meshes.transfer import MAX_TEXT_BYTES
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

VALUES = st.one_of(
    st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False, width=64)
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | VALUES | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def arrays(draw: st.DrawFn, dtype: str, *shape: int) -> NDArray[Any]:
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return random.normal(size=shape).astype(dtype)


@st.composite
def nodes(draw: st.DrawFn, meshes: int) -> tuple[list[dict[str, Any]], list[int]]:
    """Draw the nodes of a forest, in the order in which a reader makes them, and the roots."""
    count = draw(st.integers(1, 6))
    children: list[list[int]] = [[] for _ in range(count)]
    roots = [0]
    for index in range(1, count):
        draw(st.sampled_from([roots, *children[:index]])).append(index)
    made: list[dict[str, Any]] = []
    for index in range(count):
        node: dict[str, Any] = {}
        if draw(st.booleans()):
            node["name"] = draw(TEXTS)
        if children[index]:
            node["children"] = children[index]
        for name, length in (("matrix", 16), ("translation", 3), ("rotation", 4), ("scale", 3)):
            if draw(st.booleans()):
                node[name] = draw(st.lists(VALUES, min_size=length, max_size=length))
        if draw(st.booleans()):
            node["extras"] = draw(JSON.filter(lambda extras: extras is not None))
        if draw(st.booleans()):
            node["mesh"] = draw(st.integers(0, meshes - 1))
        made.append(node)
    return made, roots


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Scene, Mesh]:
    meshes = draw(st.integers(1, 3))
    parts: list[Part] = []
    for mesh in range(meshes):
        for _ in range(draw(st.integers(1, 2))):
            vertices = draw(st.integers(1, 5))
            faces = draw(st.lists(st.integers(0, vertices - 1), min_size=3, max_size=9))
            parts.append(
                Part(
                    mesh,
                    arrays(draw, "f4", vertices, 3),
                    arrays(draw, "f4", vertices, 3) if draw(st.booleans()) else None,
                    arrays(draw, "f4", vertices, 2) if draw(st.booleans()) else None,
                    np.array(faces[: len(faces) // 3 * 3], np.int32).reshape(-1, 3),
                    arrays(draw, "f8", 4, 4),
                )
            )
    tree, roots = draw(nodes(meshes))
    names = draw(st.lists(st.none() | TEXTS, min_size=meshes, max_size=meshes))
    flags = draw(st.tuples(st.booleans(), st.booleans()))
    up_axis: Axis = draw(st.sampled_from(get_args(Axis)))
    scene = Scene(tuple(parts), tuple(tree), tuple(roots), tuple(names), *flags, up_axis)
    total = sum(len(part.faces) for part in parts)
    placed = Mesh(arrays(draw, "f4", 4, 3), np.full((total, 3), 3, np.int32))
    return scene, placed


def assert_same(got: tuple[Scene, Mesh], sent: tuple[Scene, Mesh]) -> None:
    (scene, mesh), (sent_scene, sent_mesh) = got, sent
    # As text: 1 and 1.0 and True are equal in Python, but not in a file.
    for name in ("nodes", "roots", "meshes", "is_smooth", "is_double_sided", "up_axis"):
        assert json.dumps(getattr(scene, name)) == json.dumps(getattr(sent_scene, name)), name
    assert len(scene.parts) == len(sent_scene.parts)
    for part, sent_part in zip(scene.parts, sent_scene.parts, strict=True):
        assert part.mesh == sent_part.mesh
        for name in ("positions", "normals", "uv", "faces", "placement"):
            array, sent_array = getattr(part, name), getattr(sent_part, name)
            assert (array is None) == (sent_array is None), name
            if array is not None:
                assert array.dtype == sent_array.dtype
                assert array.tobytes() == sent_array.tobytes(), name
                assert array.shape == sent_array.shape
    assert mesh.vertices.tobytes() == sent_mesh.vertices.tobytes()
    assert mesh.faces.tobytes() == sent_mesh.faces.tobytes()


@functools.cache
def packed() -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a scene of two nodes, one below the other, with two parts."""
    scene = read_scene(as_bytes(two_nodes(), "glb"))
    parts = tuple(
        replace(part, normals=part.positions, uv=part.positions[:, :2]) for part in scene.parts
    )
    scene = replace(scene, parts=parts)
    return pack_scene(scene, to_model_frame(scene))


@pytest.mark.costly
@given(scenes())
def test_a_scene_comes_back_as_it_was_sent(sent: tuple[Scene, Mesh]) -> None:
    meta, packed_arrays = pack_scene(*sent)
    assert_same(unpack_scene(json.loads(json.dumps(meta)), packed_arrays), sent)


@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl"])
def test_a_read_file_comes_back_as_it_was_sent(kind: str) -> None:
    scene = read_scene(as_bytes(two_nodes() if kind == "glb" else two_nodes().to_mesh(), kind))
    sent = (scene, to_model_frame(scene))
    assert_same(unpack_scene(*pack_scene(*sent)), sent)


def text(value: object) -> NDArray[Any]:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def deep(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


CHANGES: dict[str, tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    "a face beyond the vertices": ("faces", lambda a: a + 1),
    "a negative corner": ("faces", lambda a: a - 1),
    "other integers": ("faces", lambda a: a.astype(np.int64)),
    "other byte order": ("faces", lambda a: a.astype(">i4")),
    "another shape": ("faces", lambda a: a.reshape(-1)),
    "another order in memory": ("positions", np.asfortranarray),
    "fewer vertices": ("positions", lambda a: a[:-1]),
    "more vertices": ("positions", lambda a: np.concatenate([a, a])),
    "NaN": ("positions", lambda a: a * np.float32("nan")),
    "an infinite transform": ("numbers", lambda a: a * np.inf),
    "fewer normals": ("normals", lambda a: a[:-1]),
    "no part": ("parts", lambda a: a[:0]),
    "a flag of normals that is negative": (
        "parts", lambda a: a - np.array([0, 0, 0, 2, 0], np.int32)
    ),
    "parts in another order": ("parts", lambda a: a[:, [0, 1, 2, 3, 4]][::-1]),
    "a part of a mesh before the first": (
        "parts", lambda a: a - np.array([1, 0, 0, 0, 0], np.int32)
    ),
    "parts of nothing": ("parts", lambda a: a * [1, 0, 1, 1, 1]),
    "negative sizes": ("parts", lambda a: a * np.array([1, -1, 1, 1, 1], np.int32)),
    "sizes that overflow": ("parts", lambda a: a | np.array([0, 2**30, 0, 0, 0], np.int32)),
    "a flag that is a number": ("parts", lambda a: a * np.array([1, 1, 1, 2, 1], np.int32)),
    "a mesh that does not exist": ("parts", lambda a: a + np.array([1, 0, 0, 0, 0], np.int32)),
    "fewer placements": ("placements", lambda a: a[:-1]),
    "a node with a mesh that does not exist": ("nodes", lambda a: np.maximum(a, 2)),
    "unknown transforms": ("nodes", lambda a: a | np.array([0, 0, 16], np.int32)),
    "a negative transform": ("nodes", lambda a: a - np.array([0, 0, 16], np.int32)),
    "more children than there are": ("nodes", lambda a: a + np.array([0, 1, 0], np.int32)),
    "more children": ("children", lambda a: np.concatenate([a, a])),
    "no node": ("nodes", lambda a: a[:0]),
    "a node that is its own child": ("children", np.zeros_like),
    "a child that does not exist": ("children", lambda a: a + 99),
    "a missing root": ("roots", lambda a: a[:0]),
    "a root twice": ("roots", lambda a: np.concatenate([a, a])),
    "missing numbers": ("numbers", lambda a: a[:-1]),
    "no flags of numbers": ("is_whole", lambda a: a[:0]),
    "placed faces to nowhere": ("placed_faces", lambda a: a + 10_000),
    "fewer placed faces": ("placed_faces", lambda a: a[:-1]),
    "no placed vertex": ("placed_vertices", lambda a: a[:0]),
    "more numbers": ("numbers", lambda a: np.concatenate([a, a])),
    "more flags of numbers": ("is_whole", lambda a: np.concatenate([a, a])),
    "a placed face that is negative": ("placed_faces", lambda a: a - 1),
    "a placed face beyond the last vertex": ("placed_faces", lambda a: a + 1),
    "too many placed faces": ("placed_faces", lambda a: np.resize(a, (MAX_FACES + 1, 3))),
    "placed vertices that are not finite": ("placed_vertices", lambda a: a + np.float32("inf")),
    "placements that are not finite": ("placements", lambda a: a * np.inf),
    "normals that are not finite": ("normals", lambda a: a * np.float32("nan")),
    "texture coordinates that are not finite": ("uv", lambda a: a * np.float32("nan")),
    "fewer texture coordinates": ("uv", lambda a: a[:-1]),
    "text that is no JSON": ("text", lambda _: np.frombuffer(b"{", np.uint8)),
    "text of another form": ("text", lambda _: text({"a": 1})),
    "text with three items": ("text", lambda _: text([["a", "b"], [], []])),
    "deep text": ("text", lambda _: np.frombuffer(b"[" * 100_000, np.uint8)),
    "too much text": ("text", lambda _: text([["a" * MAX_TEXT_BYTES, "b"], []])),
    "half a surrogate pair": ("text", lambda _: text([["\ud83d", "b"], []])),
    "a number beyond JSON": ("text", lambda _: text([["a", "b"], [[0, None, float("inf")]]])),
    "a name that is a number": ("text", lambda _: text([[1, "b"], []])),
    "a label without a node": ("text", lambda _: text([["a", "b"], [[7, "x", 0]]])),
    "a label of the node after the last": ("text", lambda _: text([["a", "b"], [[2, "x", 0]]])),
    "a label of a negative node": ("text", lambda _: text([["a", "b"], [[-1, "x", 0]]])),
    "a label with a fourth item": ("text", lambda _: text([["a", "b"], [[0, "x", 0, 0]]])),
    "a label that is a number": ("text", lambda _: text([["a", "b"], [0]])),
    "labels that are no list": ("text", lambda _: text([["a", "b"], {}])),
    "names that are no list": ("text", lambda _: text([{"a": 0, "b": 0}, []])),
    "no name": ("text", lambda _: text([[], []])),
    "more names than meshes": ("text", lambda _: text([["a", "b", "c"], []])),
    "fewer names than meshes": ("text", lambda _: text([["a"], []])),
    "a label of True": ("text", lambda _: text([["a", "b"], [[True, "x", 0]]])),
    "a label with a number as name": ("text", lambda _: text([["a", "b"], [[0, 1, 0]]])),
    "a label without extras": ("text", lambda _: text([["a", "b"], [[0, "x"]]])),
    "deep extras": ("text", lambda _: text([["a", "b"], [[0, None, deep(MAX_DEPTH + 1)]]])),
}  # fmt: skip


@pytest.mark.parametrize(("name", "change"), CHANGES.values(), ids=CHANGES.keys())
def test_a_result_that_is_not_a_scene_is_refused(
    name: str, change: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    meta, sent = packed()
    with np.errstate(invalid="ignore"):
        changed = sent | {name: change(sent[name])}
    with pytest.raises(InputError, match="invalid result"):
        unpack_scene(meta, changed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("is_smooth", 1), ("is_double_sided", None), ("is_up_axis_declared", "y"), ("up_axis", "x"),
        ("unread", None), ("unread", ("a",)), ("unread", [1]), ("unread", ["a"] * 6),
        ("unread", ["é"]), ("unread", ["a" * 1001]),
    ],
)  # fmt: skip
def test_what_is_said_of_a_scene_is_checked(name: str, value: object) -> None:
    meta, sent = packed()
    assert unpack_scene(meta | {"unread": ["A", "B" * 1000]}, sent)[0].unread == ("A", "B" * 1000)
    with pytest.raises(InputError, match="invalid result"):
        unpack_scene(meta | {name: value}, sent)


#: Of a tree of four nodes with a fifth beside it; each leaf has a mesh.
TREE_CHANGES: dict[str, tuple[str, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    "a mesh below none": ("nodes", lambda a: np.where(a == -1, -2, a)),
    "a mesh beyond the last": ("nodes", lambda a: np.where(a == [1, -9, -9], 2, a)),
    "a negative number of children": (
        "nodes", lambda a: a + np.array([[0, 0, 0]] * 2 + [[0, -1, 0], [0, 1, 0], [0, 0, 0]], "i4")
    ),
    "a circle": ("children", lambda a: np.where(a == 2, 1, np.where(a == 1, 2, a))),
    "a node twice": ("children", lambda a: np.where(a == 3, 2, a)),
    "a root that is a child": ("roots", lambda a: np.where(a == 4, 1, a)),
    "numbers of another transform": ("nodes", lambda a: np.where(a == [-9, -9, 4], 2, a)),
}  # fmt: skip


def tree() -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a scene of nodes 0 → 1 → 2, 0 → 3, and 4."""
    scene, mesh = unpack_scene(*packed())
    nodes: tuple[dict[str, Any], ...] = (
        {"children": [1, 3], "translation": [1, 2, 3.5]},
        {"children": [2]},
        {"mesh": 0},
        {"rotation": [0, 0, 0, 1], "mesh": 1},
        {"name": "other", "mesh": 1},
    )
    return pack_scene(replace(scene, nodes=nodes, roots=(0, 4)), mesh)


@pytest.mark.parametrize(("name", "change"), TREE_CHANGES.values(), ids=TREE_CHANGES.keys())
def test_nodes_that_are_no_tree_are_refused(
    name: str, change: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    meta, sent = tree()
    unpack_scene(meta, sent)
    with pytest.raises(InputError, match="invalid result"):
        unpack_scene(meta, sent | {name: change(sent[name])})


def test_a_child_comes_after_its_parent() -> None:
    meta, sent = tree()
    # 0 → 3, 3 → 1 and 1 → 2: a tree, but not in the order in which nodes are read.
    nodes = np.array([[-1, 1, 2], [-1, 1, 0], [0, 0, 0], [1, 1, 4], [1, 0, 0]], np.int32)
    with pytest.raises(InputError, match="invalid result"):
        unpack_scene(meta, sent | {"nodes": nodes, "children": np.array([3, 2, 1], np.int32)})


def test_missing_arrays_and_flags_are_refused() -> None:
    meta, sent = packed()
    for wrong_meta, wrong in (
        (meta, {name: sent[name] for name in list(sent)[1:]}),
        (meta, sent | {"more": sent["uv"]}),
        ({}, sent),
        (meta | {"is_smooth": 1}, sent),
        (meta | {"is_double_sided": None}, sent),
        (meta | {"up_axis": "x"}, sent),
        (meta | {"up_axis": None}, sent),
    ):
        with pytest.raises(InputError, match="invalid result"):
            unpack_scene(wrong_meta, wrong)


@given(st.data())
def test_damaged_arrays_are_a_scene_or_refused(data: st.DataObject) -> None:
    meta, sent = packed()
    name = data.draw(st.sampled_from(sorted(sent)))
    flat = np.frombuffer(bytearray(sent[name].tobytes()), np.uint8)
    for _ in range(data.draw(st.integers(1, 4))):
        if len(flat):
            flat[data.draw(st.integers(0, len(flat) - 1))] = data.draw(st.integers(0, 255))
    if sent[name].dtype == np.bool_:
        flat &= 1
    damaged = flat.view(sent[name].dtype).reshape(sent[name].shape)
    try:
        scene, mesh = unpack_scene(meta, sent | {name: damaged})
    except InputError:
        return
    json.dumps([scene.nodes, scene.meshes], allow_nan=False, ensure_ascii=False).encode()
    positions, faces = scene.merge()
    assert positions[faces].shape == mesh.vertices[mesh.faces].shape
