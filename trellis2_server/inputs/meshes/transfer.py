"""A read mesh as JSON and a few arrays, to pass it from one process to another.

    pack_scene     scene and mesh → metadata and arrays
    unpack_scene   metadata and arrays → scene and mesh; checks everything

The arrays of all parts are concatenated, so that 10,000 parts are not 10,000 arrays. Names and
extras are JSON text in an array, of at most `MAX_TEXT_BYTES`. The other end may be a process that
a hostile file has taken over: what `unpack_scene` returns has the properties that `Scene` and
`Mesh` promise, or it raises.

Does not know: processes, file formats.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast, get_args

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.metadata import is_shallow, json_text
from trellis2_server.inputs.meshes.scene import (
    MAX_FACES,
    MAX_NODES,
    MAX_VERTICES,
    Axis,
    Part,
    Scene,
)
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Maximum size of the text of names and extras. The reader keeps less: see `metadata`.
MAX_TEXT_BYTES: Final = 3_145_728

#: Maximum number of names of extensions, and of characters of each, of which some are escaped.
_MAX_NAMES: Final = 5
_MAX_NAME: Final = 1000

_FAILED: Final = "mesh: the decoder returned an invalid result"
#: A node's transforms in glTF, and their number of values; the order is that in a node.
_TRANSFORMS: Final = {"matrix": 16, "translation": 3, "rotation": 4, "scale": 3}
#: Arrays by name: dtype, and the shape after the first axis.
_ARRAYS: Final[dict[str, tuple[type[np.generic], tuple[int, ...]]]] = {
    "positions": (np.float32, (3,)),  # of all parts
    "normals": (np.float32, (3,)),  # of all parts that have normals
    "uv": (np.float32, (2,)),  # of all parts that have texture coordinates
    "faces": (np.int32, (3,)),  # of all parts, rows of the part's own positions
    "placements": (np.float64, (4, 4)),
    "parts": (np.int32, (5,)),  # mesh, vertices, faces, has normals, has texture coordinates
    "nodes": (np.int32, (3,)),  # mesh or -1, children, bits of `_TRANSFORMS`
    "children": (np.int32, ()),  # of all nodes
    "roots": (np.int32, ()),
    "numbers": (np.float64, ()),  # of all transforms of all nodes
    "is_whole": (np.bool_, ()),  # which of the numbers are integers in the file
    "text": (np.uint8, ()),  # JSON: names of meshes; index, name and extras of nodes
    "placed_vertices": (np.float32, (3,)),
    "placed_faces": (np.int32, (3,)),
}


def pack_scene(scene: Scene, mesh: Mesh) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Pack a scene, and the same as one mesh.

    Args:
        scene: from `read_scene`.
        mesh: from `to_model_frame`.

    Returns:
        JSON values, and the arrays of `_ARRAYS`.
    """
    parts, nodes = scene.parts, scene.nodes
    numbers = [value for node in nodes for name in _TRANSFORMS for value in node.get(name, ())]
    labels = [
        (index, node.get("name"), node.get("extras"))
        for index, node in enumerate(nodes)
        if "name" in node or "extras" in node
    ]
    text = json.dumps([scene.meshes, labels], ensure_ascii=False, allow_nan=False).encode()
    arrays: dict[str, Any] = {
        "positions": _concatenate([part.positions for part in parts], 3),
        "normals": _concatenate([part.normals for part in parts if part.normals is not None], 3),
        "uv": _concatenate([part.uv for part in parts if part.uv is not None], 2),
        "faces": np.concatenate([part.faces for part in parts]),
        "placements": [part.placement for part in parts],
        "parts": [
            (
                part.mesh, len(part.positions), len(part.faces),
                part.normals is not None, part.uv is not None,
            )
            for part in parts
        ],
        "nodes": [
            (
                node.get("mesh", -1), len(node.get("children", ())),
                sum(1 << bit for bit, name in enumerate(_TRANSFORMS) if name in node),
            )
            for node in nodes
        ],
        "children": [child for node in nodes for child in node.get("children", ())],
        "roots": scene.roots,
        "numbers": numbers,
        "is_whole": [isinstance(value, int) for value in numbers],
        "text": np.frombuffer(text, np.uint8),
        "placed_vertices": mesh.vertices,
        "placed_faces": mesh.faces,
    }  # fmt: skip
    meta = {
        "is_smooth": scene.is_smooth,
        "is_double_sided": scene.is_double_sided,
        "up_axis": scene.up_axis,
        "is_up_axis_declared": scene.is_up_axis_declared,
        "unread": [*scene.unread],
    }
    return meta, {
        name: np.ascontiguousarray(arrays[name], dtype) for name, (dtype, _) in _ARRAYS.items()
    }


def _concatenate(rows: list[NDArray[np.float32]], width: int) -> NDArray[np.float32]:
    return np.concatenate([np.empty((0, width), np.float32), *rows])


def unpack_scene(
    meta: Mapping[str, object], arrays: Mapping[str, NDArray[Any]]
) -> tuple[Scene, Mesh]:
    """Return the scene and the mesh that were packed.

    Args:
        meta: from `pack_scene`, but not trusted.
        arrays: likewise. The result refers to their memory.

    Raises:
        InputError: they are not what `pack_scene` returns.
    """
    if set(arrays) != set(_ARRAYS):
        _refuse()
    for name, (dtype, shape) in _ARRAYS.items():
        array = arrays[name]
        if array.dtype != dtype or array.ndim != 1 + len(shape) or array.shape[1:] != shape:
            _refuse()
        if not array.flags.c_contiguous:
            _refuse()
    for name in ("positions", "normals", "uv", "placements", "numbers", "placed_vertices"):
        if not np.isfinite(arrays[name]).all():
            _refuse()
    flags = [meta.get(name) for name in ("is_smooth", "is_double_sided", "is_up_axis_declared")]
    if any(not isinstance(flag, bool) for flag in flags):
        _refuse()
    is_smooth, is_double_sided, is_up_axis_declared = cast("list[bool]", flags)
    up_axis = meta.get("up_axis")
    if up_axis not in get_args(Axis):
        _refuse()
    meshes, labels = _read_text(arrays["text"])
    _check_faces(arrays)
    _check_tree(arrays, len(meshes))
    scene = Scene(
        _unpack_parts(arrays, len(meshes)),
        _unpack_nodes(arrays, labels),
        tuple(arrays["roots"].tolist()),
        meshes,
        is_smooth,
        is_double_sided,
        cast("Axis", up_axis),
        is_up_axis_declared=is_up_axis_declared,
        unread=_read_names(meta.get("unread")),
    )
    return scene, Mesh(arrays["placed_vertices"], arrays["placed_faces"])


def _refuse() -> NoReturn:
    raise InputError(_FAILED)


def _read_names(names: object) -> tuple[str, ...]:
    """Return names of extensions: a few, printable and short, as they go into a message."""
    if not isinstance(names, list) or len(names) > _MAX_NAMES:
        _refuse()
    for name in cast("list[object]", names):
        if not isinstance(name, str) or len(name) > _MAX_NAME or not name.isascii():
            _refuse()
    return tuple(cast("list[str]", names))


def _read_text(text: NDArray[np.uint8]) -> tuple[tuple[str | None, ...], list[Any]]:
    """Return the names of the meshes, and the labels of nodes: lists with index, name, extras."""
    if len(text) > MAX_TEXT_BYTES:
        _refuse()
    try:
        meshes, labels = json.loads(bytes(text))
        is_valid = (
            isinstance(meshes, list)
            and 0 < len(meshes) <= MAX_NODES
            and all(name is None or isinstance(name, str) for name in meshes)
            and isinstance(labels, list)
            and json_text([meshes, labels]) is not None
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(_FAILED) from error
    if not is_valid:
        _refuse()
    return tuple(meshes), labels


def _check_faces(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Check the numbers of vertices, faces and parts, and the vertices that faces refer to."""
    parts = arrays["parts"].astype(np.int64)
    total_faces, total_vertices = len(arrays["faces"]), len(arrays["positions"])
    sizes, has = parts[:, 1:3], parts[:, 3:]
    if (
        not 0 < len(parts) <= MAX_NODES
        or total_faces > MAX_FACES
        or total_vertices > MAX_VERTICES
        or len(arrays["placements"]) != len(parts)
        or sizes.min() < 1
        or sizes.sum(axis=0).tolist() != [total_vertices, total_faces]
        or not np.isin(has, (0, 1)).all()
        or (sizes[:, :1] * has).sum(axis=0).tolist() != [len(arrays["normals"]), len(arrays["uv"])]
    ):
        _refuse()
    corners = arrays["faces"].reshape(-1)
    starts = 3 * (np.cumsum(sizes[:, 1]) - sizes[:, 1])
    if (
        np.minimum.reduceat(corners, starts).min() < 0
        or (np.maximum.reduceat(corners, starts) >= sizes[:, 0]).any()
    ):
        _refuse()
    placed = arrays["placed_faces"]
    if (
        not total_faces <= len(placed) <= MAX_FACES
        or len(arrays["placed_vertices"]) > MAX_VERTICES
        or placed.min() < 0
        or placed.max() >= len(arrays["placed_vertices"])
    ):
        _refuse()


def _unpack_parts(arrays: Mapping[str, NDArray[Any]], meshes: int) -> tuple[Part, ...]:
    """Cut the arrays into parts.

    Args:
        arrays: their faces are checked.
        meshes: number of meshes; each must have a part, and the parts are ordered by mesh.
    """
    index = arrays["parts"][:, 0]
    if index[0] != 0 or index[-1] != meshes - 1 or not np.isin(np.diff(index), (0, 1)).all():
        _refuse()
    parts: list[Part] = []
    vertex = face = normal = uv = 0
    for row, placement in zip(arrays["parts"].tolist(), arrays["placements"], strict=True):
        mesh, vertices, faces, has_normals, has_uv = row
        parts.append(
            Part(
                mesh,
                arrays["positions"][vertex : vertex + vertices],
                arrays["normals"][normal : normal + vertices] if has_normals else None,
                arrays["uv"][uv : uv + vertices] if has_uv else None,
                arrays["faces"][face : face + faces],
                placement,
            )
        )
        vertex, face = vertex + vertices, face + faces
        normal, uv = normal + vertices * has_normals, uv + vertices * has_uv
    return tuple(parts)


def _check_tree(arrays: Mapping[str, NDArray[Any]], meshes: int) -> None:
    """Check that the nodes form trees, and the number of values of their transforms."""
    nodes, children = arrays["nodes"].astype(np.int64), arrays["children"]
    if not 0 < len(nodes) <= MAX_NODES or len(children) + len(arrays["roots"]) != len(nodes):
        _refuse()
    mesh, degree, bits = nodes.T
    if (
        mesh.min() < -1
        or mesh.max() >= meshes
        or degree.min() < 0
        or degree.sum() != len(children)
        or bits.min() < 0
        or bits.max() >= 1 << len(_TRANSFORMS)
    ):
        _refuse()
    found = np.concatenate([children, arrays["roots"]])
    # Each node is found once, and after its parent: so there is no circle.
    if (np.sort(found) != np.arange(len(nodes))).any() or (
        children <= np.repeat(np.arange(len(nodes)), degree)
    ).any():
        _refuse()
    values = sum(
        int((bits >> bit & 1).sum()) * count for bit, count in enumerate(_TRANSFORMS.values())
    )
    if not values == len(arrays["numbers"]) == len(arrays["is_whole"]):
        _refuse()


def _unpack_nodes(
    arrays: Mapping[str, NDArray[Any]], labels: list[Any]
) -> tuple[dict[str, Any], ...]:
    """Make the nodes; their tree is checked."""
    named = _unpack_labels(labels, len(arrays["nodes"]))
    children = iter(arrays["children"].tolist())
    numbers = (
        int(value) if whole else value
        for value, whole in zip(
            arrays["numbers"].tolist(), arrays["is_whole"].tolist(), strict=True
        )
    )
    nodes: list[dict[str, Any]] = []
    for index, (mesh, degree, bits) in enumerate(arrays["nodes"].tolist()):
        name, extras = named.get(index, (None, None))
        node: dict[str, Any] = {} if name is None else {"name": name}
        if degree:
            node["children"] = [*islice(children, degree)]
        for bit, (transform, count) in enumerate(_TRANSFORMS.items()):
            if bits >> bit & 1:
                node[transform] = [*islice(numbers, count)]
        if extras is not None:
            node["extras"] = extras
        if mesh >= 0:
            node["mesh"] = mesh
        nodes.append(node)
    return tuple(nodes)


def _unpack_labels(labels: list[Any], nodes: int) -> dict[int, tuple[str | None, Any]]:
    """Return names and extras by the index of their node."""
    named: dict[int, tuple[str | None, Any]] = {}
    for label in labels:
        if not isinstance(label, list) or len(label) != 3:  # noqa: PLR2004
            _refuse()
        index, name, extras = label
        if type(index) is not int or not 0 <= index < nodes:  # True is an int, too
            _refuse()
        if not (name is None or isinstance(name, str)) or not is_shallow(extras):
            _refuse()
        named[index] = name, extras
    return named
