"""Texturing of uploaded meshes, over HTTP."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trimesh
from PIL import Image, ImageDraw

from tests.support.glb_files import opened
from tests.support.hunyuan import finished, send
from tests.support.khronos import messages
from tests.support.meshes import as_bytes, egg, glb, load_scene, ply, two_nodes
from tests.support.server import encoded, fields, picture, until

if TYPE_CHECKING:
    import httpx

    from tests.support.engines import GatedEngine
    from tests.support.server import Server


def red_and_green() -> bytes:
    """A picture that is red on the left and green on the right."""
    image = Image.new("RGBA", (64, 64))
    draw = ImageDraw.Draw(image)
    draw.rectangle((8, 8, 31, 55), fill=(220, 30, 30, 255))
    draw.rectangle((32, 8, 55, 55), fill=(30, 200, 30, 255))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


#: A model that is made fast.
SMALL = {"decimation_target": 5000, "texture_size": 512}


def textured(server: Server, mesh: bytes, **more: Any) -> httpx.Response:
    body = fields(mesh=encoded(mesh), image=encoded(red_and_green()), texture=True, **more)
    return server.generate(body)


def colors_at(glb: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of all vertices in the scene, and the texture's colours there."""
    positions, colors = [], []
    scene = load_scene(glb)
    for name in scene.graph.nodes_geometry:
        transform, geometry = scene.graph[name]
        mesh = scene.geometry[geometry]
        positions.append(trimesh.transform_points(mesh.vertices, transform))
        colors.append(np.asarray(mesh.visual.to_color().vertex_colors)[:, :3].astype(int))
    return np.concatenate(positions), np.concatenate(colors)


def test_an_uploaded_mesh_is_textured_with_its_nodes_and_faces_unchanged(
    default_preview: Server,
) -> None:
    mesh = as_bytes(two_nodes(), "glb")
    reply = textured(default_preview, mesh)
    assert reply.status_code == 200, reply.text
    before, after = load_scene(mesh), load_scene(reply.content)
    assert set(after.graph.nodes_geometry) == set(before.graph.nodes_geometry)
    for node in before.graph.nodes_geometry:
        old, new = before.graph[node], after.graph[node]
        assert new[0] == pytest.approx(old[0])
        old_mesh, new_mesh = before.geometry[old[1]], after.geometry[new[1]]
        assert new_mesh.triangles == pytest.approx(old_mesh.triangles, abs=1e-6)
        assert new_mesh.visual.material.baseColorTexture.size == (256, 256)
    assert messages(reply.content) == []


def test_the_picture_is_projected_from_the_front_upright_and_not_mirrored(
    default_preview: Server,
) -> None:
    reply = textured(default_preview, as_bytes(egg(), "glb"))
    positions, colors = colors_at(reply.content)
    seen = (np.abs(positions[:, 0]) > 0.3) & (positions[:, 2] > 0.2)
    is_red = colors[:, 0] > colors[:, 1]
    # The front is +Z and up is +Y, so what is on the picture's left is at -X.
    assert (is_red == (positions[:, 0] < 0))[seen].all()
    behind = (np.abs(positions[:, 0]) > 0.8) & (positions[:, 2] < 0)
    assert (is_red == (positions[:, 0] < 0))[behind].all()


def test_geo_rotation_rotates_the_projection_but_not_the_returned_mesh(
    default_preview: Server,
) -> None:
    reply = textured(default_preview, as_bytes(egg(), "glb"), geo_rotation=180)
    positions, colors = colors_at(reply.content)
    assert positions.max(0) == pytest.approx(egg().bounds[1], abs=1e-5)
    seen = (np.abs(positions[:, 0]) > 0.3) & (positions[:, 2] < -0.2)
    assert ((colors[:, 0] > colors[:, 1]) == (positions[:, 0] > 0))[seen].all()


@pytest.mark.parametrize(
    ("kind", "more"),
    [("stl", {}), ("stl", {"up_axis": "Z"}), ("obj", {"up_axis": "z"}), ("glb", {"up_axis": "z"})],
)
def test_the_picture_stands_upright_on_a_mesh_with_z_up(
    default_preview: Server, kind: str, more: dict[str, Any]
) -> None:
    standing = egg().apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, (1, 0, 0)))
    reply = textured(default_preview, as_bytes(standing, kind), seed=41, **more)
    positions, colors = colors_at(reply.content)
    assert positions.max(0) == pytest.approx(standing.bounds[1], abs=1e-5)
    seen = (np.abs(positions[:, 0]) > 0.3) & (positions[:, 1] < -0.2)
    assert ((colors[:, 0] > colors[:, 1]) == (positions[:, 0] < 0))[seen].all()
    assert opened(reply.content)[0]["asset"]["extras"]["up_axis"] == "z"
    job = default_preview.client.get(f"/jobs/{reply.headers['x-job-id']}").json()
    assert job["parameters"].get("up_axis") == ("z" if more else None)
    assert ("up_axis: y" in " ".join(job.get("warnings", ()))) is not more
    again = default_preview.client.post(f"/jobs/{job['uid']}/export", json={"texture": True})
    assert again.content == reply.content


def test_the_model_of_a_mesh_with_z_up_has_the_axis_of_its_file(default_preview: Server) -> None:
    turn = trimesh.transformations.rotation_matrix(np.pi / 2, (1, 0, 0))
    standing = egg().apply_transform(turn)
    sent = as_bytes(standing, "stl")
    reply = textured(default_preview, sent, seed=43, up_axis="z", type="stl")
    # Z up and on the bed, as other STL files are.
    extents = standing.extents * 100 / standing.extents.max()
    assert bounds(reply, "stl")[1][2] == pytest.approx(extents[2], rel=1e-4)
    assert np.ptp(bounds(reply, "stl"), axis=0) == pytest.approx(extents, rel=1e-4)
    job = f"/jobs/{reply.headers['x-job-id']}"
    get = default_preview.client.get
    assert bounds(get(f"{job}/textured.obj"), "obj") == pytest.approx(egg().bounds, abs=1e-5)
    as_sent = pytest.approx(standing.bounds, abs=1e-5)
    assert bounds(get(f"{job}/textured.glb"), "glb") == as_sent
    assert bounds(get(f"{job}/textured.obj?up_axis=z"), "obj") == as_sent
    export = {"type": "obj", "up_axis": "z", "texture": True}
    exported = default_preview.client.post(f"{job}/export", json=export)
    assert bounds(exported, "obj") == as_sent


def bounds(reply: httpx.Response, file_type: str) -> Any:
    assert reply.is_success, reply.text
    return trimesh.load(io.BytesIO(reply.content), file_type=file_type, force="mesh").bounds


@pytest.mark.parametrize(("kind", "more"), [("stl", {"up_axis": "y"}), ("glb", {})])
def test_nothing_is_said_of_a_mesh_with_y_up(
    default_preview: Server, kind: str, more: dict[str, Any]
) -> None:
    reply = textured(default_preview, as_bytes(egg(), kind), seed=42, **more)
    positions, colors = colors_at(reply.content)
    seen = (np.abs(positions[:, 0]) > 0.3) & (positions[:, 2] > 0.2)
    assert ((colors[:, 0] > colors[:, 1]) == (positions[:, 0] < 0))[seen].all()
    assert "up_axis" not in opened(reply.content)[0]["asset"]["extras"]
    job = default_preview.client.get(f"/jobs/{reply.headers['x-job-id']}").json()
    assert not job.get("warnings")


def test_an_stl_of_this_server_says_itself_which_axis_points_up(default_preview: Server) -> None:
    standing = as_bytes(egg(), "stl")
    own = textured(default_preview, standing, seed=44, up_axis="y", type="stl").content
    job = job_of(textured(default_preview, own, seed=45), default_preview)
    assert not job.get("warnings")
    foreign = job_of(textured(default_preview, b"other" + own[5:], seed=46), default_preview)
    assert "up_axis: y" in " ".join(foreign["warnings"])


def test_a_job_says_what_was_left_out_of_its_mesh(default_preview: Server) -> None:
    document, data = opened(as_bytes(egg(), "glb"))
    document["extensionsUsed"] = ["EXT_primitive_voxels", "KHR_materials_unlit"]
    job = job_of(textured(default_preview, glb(document, data), seed=47), default_preview)
    assert job["warnings"] == ["mesh: EXT_primitive_voxels of the file is not read and left out"]


def job_of(reply: httpx.Response, server: Server) -> dict[str, Any]:
    assert reply.is_success, reply.text
    return server.client.get(f"/jobs/{reply.headers['x-job-id']}").json()


@pytest.mark.parametrize("kind", ["obj", "ply", "stl"])
def test_other_mesh_files_are_returned_as_a_textured_glb(
    default_preview: Server, kind: str
) -> None:
    reply = textured(default_preview, as_bytes(egg(), kind))
    mesh = load_scene(reply.content).to_geometry()
    assert len(mesh.faces) == 1280
    assert mesh.bounds == pytest.approx(egg().bounds, abs=1e-6)
    assert messages(reply.content) == []


def test_a_mesh_can_be_textured_by_generate_texture_and_sent_as_files(
    default_preview: Server,
) -> None:
    mesh = as_bytes(egg(), "glb")
    one = textured(default_preview, mesh)
    other = default_preview.client.post(
        "/generate_texture",
        files={"image": red_and_green(), "mesh": mesh},
        data={"seed": "1", "texture_size": "256", "decimation_target": "2000", "use_pbr": "true"},
    )
    assert other.status_code == 200, other.text
    assert other.content == one.content
    assert (
        finished(
            default_preview,
            send(
                default_preview,
                fields(mesh=encoded(mesh), image=encoded(red_and_green()), texture=True),
            ),
        )
        == one.content
    )


def test_the_same_mesh_matches_its_job_and_another_mesh_does_not(default_preview: Server) -> None:
    one, same = (
        textured(default_preview, as_bytes(egg(), "glb")),
        textured(default_preview, as_bytes(egg(), "glb")),
    )
    other = textured(default_preview, as_bytes(egg(), "stl"))
    turned = textured(default_preview, as_bytes(egg(), "glb"), geo_rotation=90)
    uids = [reply.headers["x-job-id"] for reply in (one, same, other, turned)]
    assert uids[0] == uids[1]
    assert len(set(uids)) == 3


def test_without_texture_an_uploaded_mesh_is_returned_untextured(default_preview: Server) -> None:
    body = fields(mesh=encoded(as_bytes(egg(), "stl")), texture=False)
    mesh = load_scene(default_preview.generate(body).content).to_geometry()
    assert len(mesh.faces) == 1280


@pytest.mark.parametrize("more", [{}, {"image": encoded(picture(0, 64, "WEBP"))}, {"image": None}])
def test_the_untextured_model_of_a_job_gets_the_texture_of_that_job(
    server: Server, engine: GatedEngine, more: dict[str, Any]
) -> None:
    shape = server.generate(fields(texture=False))
    body = {**fields(), **more, "mesh": encoded(shape.content)}
    reply = server.client.post("/generate_texture", json=body)
    assert reply.headers["x-job-id"] == shape.headers["x-job-id"]
    assert reply.content == server.texture(uid=shape.headers["x-job-id"]).content
    assert "texture_mesh" not in {stage for stage, _ in engine.calls}


def test_the_untextured_model_of_a_job_is_textured_from_another_picture(
    server: Server, engine: GatedEngine
) -> None:
    shape = server.generate(fields(texture=False))
    reply = server.generate(fields(5, mesh=encoded(shape.content), texture=True))
    assert reply.headers["x-job-id"] != shape.headers["x-job-id"]
    assert ("texture_mesh", 1) in engine.calls


def test_a_mesh_without_a_picture_is_rejected_with_the_cause(server: Server) -> None:
    body = {"mesh": encoded(as_bytes(egg(), "glb")), "texture": True}
    for path in ("/generate", "/generate_texture", "/send"):
        reply = server.client.post(path, json=body)
        assert reply.status_code == 400
        assert reply.json()["text"].startswith("image: missing")


@pytest.mark.parametrize(
    ("mesh", "cause"),
    [
        ("", "mesh: empty"),
        ("&&&", "mesh: not base64"),
        (7, "mesh: must be a base64 string"),
        (encoded(b"hello"), "mesh: not a GLB"),
        (
            encoded(ply(1_000_000_000, 1)),
            "mesh: the PLY file declares more than it contains: 1000000000 rows of the element ",
        ),
        (encoded(bytes(80) + struct.pack("<I", 10**9) + bytes(50)), "mesh: not a GLB"),
        (encoded(as_bytes(egg(), "glb")[:-100]), "mesh: the GLB is cut short"),
    ],
)
def test_an_invalid_mesh_is_rejected_with_the_cause(
    server: Server, mesh: object, cause: str
) -> None:
    reply = server.generate(fields(mesh=mesh, texture=True))
    assert reply.status_code == 400
    assert reply.json()["text"].startswith(cause)


def test_a_picture_sent_as_mesh_is_refused_before_there_is_a_job(server: Server) -> None:
    known = server.client.get("/jobs").json()
    body = fields(texture=True)
    reply = server.generate(body | {"mesh": body["image"]})
    assert reply.status_code == 400
    assert reply.json()["text"].endswith("but a picture (PNG); send it as image")
    assert server.client.get("/jobs").json() == known


@pytest.mark.parametrize(
    ("compress", "extension"),
    [("meshopt", "EXT_meshopt_compression"), ("draco", "KHR_draco_mesh_compression")],
)
def test_an_uploaded_mesh_is_returned_compressed(
    default_preview: Server, compress: str, extension: str
) -> None:
    reply = textured(default_preview, as_bytes(egg(), "glb"), compress=compress)
    if reply.status_code == 500:
        pytest.skip(f"{compress} is not installed")
    plain = textured(default_preview, as_bytes(egg(), "glb"))
    assert plain.headers["X-Job-Id"] != reply.headers["X-Job-Id"]
    assert extension in opened(reply.content)[0]["extensionsRequired"]
    uid = reply.headers["X-Job-Id"]
    until(lambda: default_preview.client.get(f"/jobs/{uid}").json()["can_export"], "stored")
    again = default_preview.client.post(f"/jobs/{uid}/export", json={"compress": "none"})
    assert again.content == plain.content


@pytest.mark.parametrize("compress", ["meshopt", "draco"])
def test_a_compressed_model_of_the_server_can_be_sent_back_as_mesh(
    default_preview: Server, compress: str
) -> None:
    made = default_preview.generate(
        SMALL | {"image": encoded(red_and_green()), "texture": True, "compress": compress}
    )
    if made.status_code == 500:
        pytest.skip(f"{compress} is not installed")
    assert any(compress in name for name in opened(made.content)[0]["extensionsRequired"])
    reply = textured(default_preview, made.content)
    assert reply.status_code == 200, reply.text
    sent, returned = (
        [
            document["accessors"][each["indices"]]["count"]
            for mesh in document["meshes"]
            for each in mesh["primitives"]
        ]
        for document, _ in (opened(made.content), opened(reply.content))
    )
    assert sent == returned


def test_a_mesh_with_a_picture_leaves_its_hash_to_the_model_of_the_picture(
    default_preview: Server,
) -> None:
    own = default_preview.generate(SMALL | {"image": encoded(red_and_green())})
    image_hash = own.headers["X-Image-Hash"]
    given = textured(default_preview, as_bytes(egg(), "glb"))
    broken = textured(default_preview, b"v 0 0 0\nf 1 2 3\n")
    assert (given.status_code, broken.status_code) == (200, 400)
    assert given.headers["X-Image-Hash"] not in {image_hash, ""}
    by_hash = default_preview.texture(image_hash=image_hash)
    by_picture = default_preview.texture(image=encoded(red_and_green()))
    assert by_hash.headers["X-Job-Id"] == own.headers["X-Job-Id"]
    assert by_picture.headers["X-Job-Id"] == own.headers["X-Job-Id"]
    again = default_preview.texture(image_hash=given.headers["X-Image-Hash"])
    assert again.content == given.content


def test_the_hash_of_a_job_is_that_of_its_picture_and_its_mesh(default_preview: Server) -> None:
    egg_glb, egg_stl = as_bytes(egg(), "glb"), as_bytes(egg(), "stl")
    one, turned, other = (
        textured(default_preview, egg_glb),
        textured(default_preview, egg_glb, geo_rotation=90),
        textured(default_preview, egg_stl),
    )
    hashes = [reply.headers["X-Image-Hash"] for reply in (one, turned, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    named = default_preview.client.get(f"/jobs/{hashes[0]}").json()["uid"]
    assert named == turned.headers["X-Job-Id"]


def test_a_finished_job_does_not_hold_its_mesh_and_models(server: Server) -> None:
    uid = textured(server, as_bytes(egg(), "glb")).headers["x-job-id"]
    assert uid not in server.manager.active_jobs
