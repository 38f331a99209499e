"""Joints and weights of vertices, and what they make of a mesh, one vertex at a time."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from tests.support import built_glb
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.meshes import glb_skins, read_scene
from trellis2_server.inputs.meshes.glb_accessors import Accessors
from trellis2_server.inputs.meshes.glb_container import Glb
from trellis2_server.inputs.meshes.glb_skins import (
    Influences,
    Skins,
    blend,
    common_matrix,
    read_influences,
)

VERTICES = 5


def file_of(
    sets: list[tuple[np.ndarray, np.ndarray]], dtype: str = "u1"
) -> tuple[Accessors, dict[str, int]]:
    built = built_glb.Glb()
    attributes: dict[str, int] = {}
    for number, (joints, weights) in enumerate(sets):
        attributes[f"JOINTS_{number}"] = built.accessor(joints, dtype)
        attributes[f"WEIGHTS_{number}"] = built.accessor(weights.astype(np.float32))
    built.document["buffers"] = [{"byteLength": len(built.data)}]
    return Accessors(Glb(bytes(built))), attributes


def some_sets(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(count)
    sets = [
        (random.integers(0, 9, (VERTICES, 4)), random.random((VERTICES, 4))) for _ in range(count)
    ]
    for _, weights in sets:
        weights[1] = 0
        weights[2, :2] = (-1, np.nan)
        weights[3, 3] = np.inf
    return sets


@pytest.mark.parametrize("dtype", ["u1", "<u2"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("used", [None, [4, 1, 2]], ids=["all", "some"])
def test_all_sets_of_joints_count(count: int, used: list[int] | None, dtype: str) -> None:
    sets = some_sets(count)
    accessors, attributes = file_of(sets, dtype)
    rows = None if used is None else np.array(used)
    found = read_influences(accessors, attributes, VERTICES, rows, "primitive")
    wanted = range(VERTICES) if used is None else used
    assert found.joints.shape == found.weights.shape == (len(wanted), 4 * count)
    for at, vertex in enumerate(wanted):
        joints = np.concatenate([joints[vertex] for joints, _ in sets])
        weights = np.concatenate([weights[vertex] for _, weights in sets]).astype(np.float32)
        weights = [float(w) if np.isfinite(w) and w > 0 else 0.0 for w in weights]
        if not any(weights):
            weights[0] = 1.0
        assert found.joints[at].tolist() == joints.tolist()
        assert found.weights[at].tolist() == weights
    by_row = zip(found.joints.tolist(), found.weights.tolist(), strict=True)
    used_joints = {j for row in by_row for j, weight in zip(*row, strict=True) if weight > 0}
    assert found.used_joints().tolist() == sorted(used_joints)


def test_without_joints_vertices_follow_the_first_one() -> None:
    accessors, attributes = file_of(some_sets(1))
    for missing in attributes:
        left = {name: index for name, index in attributes.items() if name != missing}
        found = read_influences(accessors, left, 3, None, "primitive")
        assert found.joints.tolist() == [[0]] * 3
        assert found.weights.tolist() == [[1]] * 3
    found = read_influences(accessors, {}, 9, np.array([7, 3]), "primitive")
    assert found.weights.shape == (2, 1)


@pytest.mark.parametrize("dtype", ["i1", "<i2", "<u4", "<f4"])
def test_joints_are_bytes_or_shorts(dtype: str) -> None:
    accessors, attributes = file_of(some_sets(1), dtype)
    with pytest.raises(InputError, match="joints of here of the GLB are not bytes or shorts"):
        read_influences(accessors, attributes, VERTICES, None, "here")


def test_joints_and_weights_are_as_many_as_vertices() -> None:
    sets = some_sets(1)
    accessors, attributes = file_of(sets)
    for count in (VERTICES - 1, VERTICES + 1):
        with pytest.raises(InputError, match=f"has {count} vertices, but joints for 5 and weights"):
            read_influences(accessors, attributes, count, None, "here")
    accessors, attributes = file_of([(sets[0][0], sets[0][1][:4])])
    for count in (4, 5):
        with pytest.raises(InputError, match="joints for 5 and weights for 4"):
            read_influences(accessors, attributes, count, None, "here")


def test_sets_of_joints_are_limited() -> None:
    accessors, attributes = file_of(some_sets(9))
    with pytest.raises(TooLargeError, match="here over the limit of 8 sets of joints"):
        read_influences(accessors, attributes, VERTICES, None, "here")
    del attributes["JOINTS_8"]
    assert read_influences(accessors, attributes, VERTICES, None, "here").joints.shape == (5, 32)


def affine(random: np.random.Generator, *, mirrors: bool = False) -> np.ndarray:
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn) * (-1 if mirrors else 1)
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag(random.uniform(0.5, 2, 3))
    matrix[:3, 3] = random.normal(size=3)
    return matrix


def test_a_joint_is_its_node_after_the_inverse_of_its_bind() -> None:
    random = np.random.default_rng(5)
    inverse = np.array([affine(random) for _ in range(3)])
    built = built_glb.Glb()
    nodes: list[dict[str, Any]] = [
        {"translation": [1, 2, 3], "children": [1]},
        {"scale": [2, 3, 4]},
        {"translation": [9, 8, 7]},
    ]
    rows = inverse.astype(np.float32).transpose(0, 2, 1).reshape(-1, 16)
    index = built.accessor_of(built.view(rows.tobytes()), 3, 4, "<f4", type="MAT4")
    built.document |= {
        "nodes": nodes,
        "skins": [{"joints": [2, 1], "inverseBindMatrices": index}, {"joints": [1]}],
        "buffers": [{"byteLength": len(built.data)}],
    }
    file = Glb(bytes(built))
    skins = Skins(file, Accessors(file))
    moved = np.diag([2.0, 3, 4, 1])
    moved[:3, 3] = (1, 2, 3)
    away = np.eye(4)
    away[:3, 3] = (9, 8, 7)
    np.testing.assert_allclose(
        skins.matrices(0), [away @ inverse[0], moved @ inverse[1]], rtol=1e-5
    )
    np.testing.assert_allclose(skins.matrices(1), [moved])
    assert skins.matrices(0) is skins.matrices(0)


@pytest.mark.parametrize("count", [1, 2])
def test_joints_of_all_skins_together_are_limited(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = built_glb.Glb()
    built.document |= {"nodes": [{}, {}], "skins": [{"joints": [0, 1]}] * count}
    file = Glb(bytes(built))
    monkeypatch.setattr(glb_skins, "_MAX_JOINTS", 2)
    skins = Skins(file, Accessors(file))
    skins.matrices(0)
    if count == 2:
        with pytest.raises(TooLargeError, match="over the limit of 2 joints of skins"):
            skins.matrices(1)


def test_fewer_matrices_than_joints_are_named() -> None:
    built = built_glb.Glb()
    view = built.view(np.eye(4, dtype=np.float32).tobytes())
    index = built.accessor_of(view, 1, 4, "<f4", type="MAT4")
    built.document |= {
        "nodes": [{}, {}],
        "skins": [{"joints": [0, 1], "inverseBindMatrices": index}],
        "buffers": [{"byteLength": len(built.data)}],
    }
    file = Glb(bytes(built))
    with pytest.raises(InputError, match=r"skins\[0\] of the GLB has 2 joints, but 1 matrices"):
        Skins(file, Accessors(file)).matrices(0)


@pytest.mark.parametrize("corner", range(8))
def test_joints_share_a_transform_if_they_move_no_corner_apart(corner: int) -> None:
    random = np.random.default_rng(corner)
    low, high = np.array([-1.0, 2, 0]), np.array([1.0, 3, 0.5])
    matrix = affine(random)
    same = common_matrix(low, high, np.array([matrix, matrix]))
    assert same is not None
    np.testing.assert_array_equal(same, matrix)
    # The two differ by a shear that moves this corner alone, by so much of the mesh's size.
    point = np.where([corner >> axis & 1 for axis in range(3)], high, low)
    corners = np.array([*product(*zip(low, high, strict=True))])
    extent = float(np.ptp(corners @ matrix[:3, :3].T, axis=0).max())
    for share, is_common in ((0.5e-5, True), (2e-5, False)):
        other = matrix.copy()
        gradient = np.where([corner >> axis & 1 for axis in range(3)], 1, -1) / (high - low) / 3
        other[0, :3] += share * extent * gradient
        other[0, 3] += share * extent * (1 - gradient @ point)
        assert (common_matrix(low, high, np.array([matrix, other])) is not None) == is_common
    near = np.eye(4)
    near[:3, 3] = 1e-6
    found = common_matrix(low, high, np.array([near]))
    assert found is not None
    np.testing.assert_array_equal(found, np.eye(4))


@pytest.mark.parametrize("at_once", [3, 16_384])
def test_vertices_are_moved_by_the_mean_of_their_joints(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glb_skins, "_VERTICES_AT_ONCE", at_once)
    random = np.random.default_rng(3)
    count = 8
    matrices = np.array([affine(random, mirrors=k == 2) for k in range(4)])
    joints = random.integers(0, 4, (count, 4)).astype(np.int32)
    weights = random.random((count, 4)).astype(np.float32)
    weights[:, 2] = 0
    joints[:, 2] = 99  # without a weight, it need not exist
    joints[:3] = (2, 2, 99, 2)
    joints[3:6, [0, 1, 3]] = (0, 1, 3)
    positions = random.normal(size=(count, 3)).astype(np.float32)
    normals = random.normal(size=(count, 3)).astype(np.float32)
    normals[4] = 0
    faces = np.array([(0, 1, 2), (0, 1, 3), (3, 4, 0), (3, 4, 5)], np.int32)
    placed, turned, turned_faces = blend(
        positions, normals, faces, Influences(joints, weights), matrices
    )
    is_mirrored: list[bool] = []
    assert turned is not None
    for vertex in range(count):
        shares = weights[vertex].astype(np.float64) / weights[vertex].sum(dtype=np.float64)
        matrix = sum(
            share * matrices[joint]
            for share, joint in zip(shares, joints[vertex], strict=True)
            if share > 0
        )
        wanted = matrix[:3, :3] @ positions[vertex] + matrix[:3, 3]
        np.testing.assert_allclose(placed[vertex], wanted, atol=1e-9)
        is_mirrored.append(bool(np.linalg.det(matrix[:3, :3]) < 0))
        direction = np.linalg.inv(matrix[:3, :3]).T @ normals[vertex]
        length = np.linalg.norm(direction)
        np.testing.assert_allclose(turned[vertex], direction / (length or 1), atol=1e-5)
    assert is_mirrored[:3] == [True] * 3
    assert is_mirrored[3:6] == [False] * 3
    assert turned_faces.tolist() == [[2, 1, 0], [3, 1, 0], [3, 4, 0], [3, 4, 5]]
    plain = blend(positions, None, faces[2:], Influences(joints, weights), matrices)
    np.testing.assert_array_equal(plain[0], placed)
    assert plain[1] is None
    assert plain[2].tolist() == faces[2:].tolist()


@pytest.mark.parametrize("high", [0.0, 0.5])
def test_joints_that_agree_on_all_primitives_leave_their_positions(high: float) -> None:
    """They differ along Z, where the mesh is flat or not."""
    built = built_glb.Glb()
    triangle = np.array([[0, 0, 0], [2, 0, 0], [0, 3, 0]], np.float32)
    places = [triangle, triangle + np.float32([[5, 1, 0]]), triangle - np.float32([[0, 7, 0]])]
    places[1][:, 2] = high
    for positions in places:
        built.document["meshes"][0]["primitives"].append(
            {
                "attributes": {
                    "POSITION": built.accessor(positions),
                    "JOINTS_0": built.accessor(np.array([[0, 1, 0, 0]] * 3), "u1"),
                    "WEIGHTS_0": built.accessor(np.array([[0.5, 0.5, 0, 0]] * 3, np.float32)),
                }
            }
        )
    built.document |= {
        "nodes": [
            {"mesh": 0, "skin": 0},
            {"translation": [5, 6, 7]},
            {"translation": [5, 6, 7], "scale": [1, 1, 9]},
        ],
        "skins": [{"joints": [1, 2]}],
        "scenes": [{"nodes": [0, 1, 2]}],
        "buffers": [{"byteLength": len(built.data)}],
    }
    scene = read_scene(bytes(built))
    found = np.concatenate([part.positions for part in scene.parts])
    given = np.concatenate(places)
    wanted = given * (1, 1, 5) + (5, 6, 7) if high else given
    np.testing.assert_allclose(found[np.lexsort(found.T)], wanted[np.lexsort(wanted.T)], atol=1e-5)
