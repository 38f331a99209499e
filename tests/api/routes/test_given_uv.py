"""Texturing of uploaded meshes with their own texture coordinates, over HTTP."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals

from tests.support.glb_files import opened
from tests.support.khronos import messages
from tests.support.meshes import as_bytes, egg, load_scene
from tests.support.server import encoded, fields

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    from numpy.typing import NDArray

    from tests.support.server import Server


def red_and_green() -> bytes:
    """Return a picture that is red on the left and green on the right."""
    image = Image.new("RGBA", (64, 64))
    image.paste((220, 30, 30, 255), (8, 8, 32, 56))
    image.paste((30, 200, 30, 255), (32, 8, 56, 56))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


PICTURE = red_and_green()


def box() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return a box with a place of its own for each of its twelve faces: points, faces, UV."""
    plain = trimesh.creation.box((2, 2, 2))
    points = plain.vertices[plain.faces].reshape(-1, 3)
    column, row = np.divmod(np.arange(12), 3)
    corners = np.array([[0.1, 0.1], [0.9, 0.1], [0.1, 0.8]])
    uv = (np.stack([column, row], axis=1)[:, None] + corners) / [4, 3]
    return points, np.arange(36).reshape(-1, 3), uv.reshape(-1, 2)


def with_uv(uv: Any, points: Any = None, faces: Any = None, transform: Any = None) -> bytes:
    """Return a GLB of the box, or of another mesh, with these UVs as in glTF."""
    box_points, box_faces, _ = box()
    upward = np.array(uv) * [1, -1] + [0, 1]  # trimesh has v upward
    mesh = trimesh.Trimesh(
        box_points if points is None else points,
        box_faces if faces is None else faces,
        visual=TextureVisuals(upward),
        process=False,
    )
    scene = trimesh.Scene()
    scene.add_geometry(mesh, "crate", "crate", transform=transform)
    return as_bytes(scene, "glb")


def ask(server: Server, mesh: bytes, **more: Any) -> httpx.Response:
    body = fields(mesh=encoded(mesh), image=encoded(PICTURE), texture=True, uv="keep", **more)
    return server.generate(body)


def corners_of(content: bytes) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the UV and the positions of the corners of the faces, float32, as in the file."""
    document, data = opened(content)
    primitive = document["meshes"][0]["primitives"][0]

    def rows(index: int) -> NDArray[Any]:
        accessor = document["accessors"][index]
        view = document["bufferViews"][accessor["bufferView"]]
        dtype = {5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}[accessor["componentType"]]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[accessor["type"]]
        offset = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        return np.frombuffer(data, dtype, accessor["count"] * width, offset).reshape(-1, width)

    faces = rows(primitive["indices"])[:, 0].astype(int)
    attributes = primitive["attributes"]
    return rows(attributes["TEXCOORD_0"])[faces], rows(attributes["POSITION"])[faces]


@pytest.mark.costly
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_mesh_keeps_its_own_texture_coordinates(default_preview: Server, side: float) -> None:
    mesh = with_uv(box()[2], transform=np.diag([side, 1, 1, 1]))
    reply = ask(default_preview, mesh)
    assert reply.status_code == 200, reply.text
    assert messages(reply.content) == []
    for kept, own in zip(corners_of(reply.content), corners_of(mesh), strict=True):
        assert kept.tobytes() == own.tobytes()
    # The same colours lie at the same places as with a new layout.
    renewed = default_preview.generate(
        fields(mesh=encoded(mesh), image=encoded(PICTURE), texture=True, texture_size=1024)
    )
    sharp = ask(default_preview, mesh, texture_size=1024)
    assert corners_of(renewed.content)[0].tobytes() != corners_of(mesh)[0].tobytes()
    colors = [middles(content) for content in (sharp.content, renewed.content)]
    assert colors[0] == pytest.approx(colors[1], abs=12)
    assert np.ptp(colors[0], axis=0).max() > 150


def middles(content: bytes) -> NDArray[Any]:
    """Return the texture's colour in the middle of each face, as trimesh reads it."""
    (mesh,) = load_scene(content).geometry.values()
    uv = mesh.visual.uv[mesh.faces].mean(axis=1)
    return mesh.visual.material.to_color(uv)[:, :3].astype(int)


@pytest.mark.costly
def test_an_export_can_switch_between_new_and_own_coordinates(default_preview: Server) -> None:
    mesh = with_uv(box()[2])
    kept = ask(default_preview, mesh, seed=7)
    path = f"/jobs/{kept.headers['x-job-id']}"
    assert default_preview.client.get(path).json()["parameters"]["uv"] == "keep"
    renewed = default_preview.client.post(f"{path}/export", json={"texture": True, "uv": "new"})
    assert corners_of(renewed.content)[0].tobytes() != corners_of(mesh)[0].tobytes()
    again = default_preview.client.post(f"{path}/export", json={"texture": True})
    assert again.content == kept.content


def test_meshes_at_several_places_can_switch_between_new_and_own_coordinates(
    default_preview: Server,
) -> None:
    points, faces, uv = box()
    mesh = trimesh.Trimesh(points, faces, visual=TextureVisuals(uv), process=False)
    scene = trimesh.Scene()
    scene.geometry["crate"] = mesh
    for x in (-3, 3):
        matrix = trimesh.transformations.translation_matrix([x, 0, 0])
        scene.graph.update(f"crate {x}", matrix=matrix, geometry="crate")
    made = {way: export_as(default_preview, as_bytes(scene, "glb"), way) for way in ("new", "keep")}
    for first, second in made.values():
        assert len(opened(first)[0]["meshes"]) != len(opened(second)[0]["meshes"])
    assert made["new"] == made["keep"][::-1]
    # The first place, which keeps its coordinates, is red: it is on the left of the picture.
    assert np.all(middles(made["keep"][0])[:, :2] @ [1, -1] > 100)


def export_as(server: Server, mesh: bytes, uv: str) -> list[bytes]:
    """Return a model that was made that way, and its export the other way."""
    body = fields(mesh=encoded(mesh), image=encoded(PICTURE), texture=True, uv=uv, seed=9)
    reply = server.generate(body)
    assert reply.status_code == 200, reply.text
    other = {"texture": True, "uv": "new" if uv == "keep" else "keep"}
    again = server.client.post(f"/jobs/{reply.headers['x-job-id']}/export", json=other)
    assert again.status_code == 200, again.text
    return [reply.content, again.content]


def as_obj(uv: Any) -> bytes:
    """Return the box as an OBJ: eight vertices, and texture coordinates of its own at each corner.

    Args:
        uv: of the corners, as in glTF.
    """
    points, _, _ = box()
    places, corners = np.unique(points, axis=0, return_inverse=True)
    lines = [f"v {x} {y} {z}" for x, y, z in places.tolist()]
    lines += [f"vt {u!r} {1 - v!r}" for u, v in np.array(uv).tolist()]
    words = [f"{corner + 1}/{at + 1}" for at, corner in enumerate(corners.reshape(-1).tolist())]
    lines += [f"f {' '.join(words[at : at + 3])}" for at in range(0, 36, 3)]
    return "\n".join(lines).encode()


def as_ply(uv: Any) -> bytes:
    """Return the box as a PLY of eight vertices, with these UVs at the corners of its faces."""
    points = box()[0]
    places, corners = np.unique(points, axis=0, return_inverse=True)
    header = (
        f"ply\nformat ascii 1.0\nelement vertex {len(places)}\nproperty float x\n"
        "property float y\nproperty float z\nelement face 12\n"
        "property list uchar int vertex_indices\nproperty list uchar float texcoord\nend_header"
    )
    lines = [header, *(f"{x} {y} {z}" for x, y, z in places.tolist())]
    upward = np.array(uv).reshape(12, 3, 2) * [1, -1] + [0, 1]
    rows = zip(corners.reshape(12, 3).tolist(), upward.reshape(12, 6).tolist(), strict=True)
    lines += [f"3 {' '.join(map(str, face))} 6 {' '.join(map(repr, six))}" for face, six in rows]
    return "\n".join(lines).encode()


@pytest.mark.costly
@pytest.mark.parametrize("write", [as_obj, as_ply])
def test_an_obj_and_a_ply_keep_their_own_texture_coordinates(
    default_preview: Server, write: Callable[[Any], bytes]
) -> None:
    kept = ask(default_preview, write(box()[2]), texture_size=1024)
    assert kept.status_code == 200, kept.text
    assert messages(kept.content) == []
    other = ask(default_preview, with_uv(box()[2]), texture_size=1024)
    for mine, theirs in zip(corners_of(kept.content), corners_of(other.content), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)
    assert middles(kept.content) == pytest.approx(middles(other.content), abs=12)


def test_both_sides_of_a_leaf_may_share_their_place(default_preview: Server) -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]] * 2, float)
    faces = [[0, 1, 2], [0, 2, 3], [6, 5, 4], [7, 6, 4]]
    reply = ask(default_preview, with_uv(points[:, :2], points, faces))
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("compress", ["none", "draco"])
def test_a_model_of_the_server_keeps_its_coordinates(
    default_preview: Server, compress: str
) -> None:
    """Its charts fold over in a few slivers, as those of all programs do."""
    made = default_preview.generate(fields(image=encoded(PICTURE), texture=True, compress=compress))
    reply = ask(default_preview, made.content)
    assert reply.status_code == 200, reply.text


SPREAD = box()[2]
SAME_PLACE = np.tile([[0.1, 0.1], [0.9, 0.1], [0.1, 0.9]], (12, 1))
ONE_OUTSIDE = SPREAD + np.eye(36)[:, [16]] * [1.5, 0]
NEIGHBOURS = SPREAD + (np.arange(36) < 3)[:, None] * [0.02, 0.15]


@pytest.mark.parametrize(
    ("uv", "words"),
    [
        (SAME_PLACE, ["crate", "primitive 0, face 0", "face 1", "overlap", "u, v = 0.36"]),
        (NEIGHBOURS, ["face 0", "face 1", "overlap"]),
        (ONE_OUTSIDE, ["crate", "primitive 0, face 5", "from 0 to 1", "u, v = 1.9"]),
        (np.full((36, 2), 0.25), ["face 0", "none, at u, v = 0.25, 0.25"]),
    ],
)
def test_coordinates_that_cannot_be_kept_are_refused_with_their_place(
    default_preview: Server, uv: Any, words: list[str]
) -> None:
    reply = ask(default_preview, with_uv(uv))
    assert reply.status_code == 400
    said = reply.text
    for word in ["uv: keep needs", *words]:
        assert word in said, said


@pytest.mark.parametrize("write", [as_obj, as_ply])
def test_overlaps_in_other_files_are_refused_with_their_place(
    default_preview: Server, write: Callable[[Any], bytes]
) -> None:
    reply = ask(default_preview, write(NEIGHBOURS))
    assert reply.status_code == 400
    assert "mesh 0, primitive 0, face 1 and mesh 0, primitive 0, face 0 do, near" in reply.text
    reply = ask(default_preview, write(ONE_OUTSIDE))
    assert reply.status_code == 400
    assert "mesh 0, primitive 0, face 5 has u, v = 1.9" in reply.text


@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl"])
def test_a_mesh_without_coordinates_has_none_to_keep(default_preview: Server, kind: str) -> None:
    reply = ask(default_preview, as_bytes(egg(), kind))
    assert reply.status_code == 400
    assert "primitive 0 has none; they are read from GLB (TEXCOORD_0)" in reply.text
