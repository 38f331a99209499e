from __future__ import annotations

import base64
import io
import json
import re
import struct
import uuid
import zipfile
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import trimesh
from PIL import Image, ImageDraw

from tests.support.engines import GatedEngine
from tests.support.khronos import messages
from tests.support.meshes import as_bytes, egg, ply, two_nodes
from tests.support.server import encoded, fields, picture, serving, settings, until
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.support.server import Server

UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def made() -> Generator[Server]:
    """A server with the embedded engine."""
    with serving(PreviewEngine()) as server:
        server.wait_until_loaded()
        yield server


def send(server: Server, body: dict[str, Any], prefix: str = "") -> str:
    reply = server.client.post(f"{prefix}/send", json=body)
    assert reply.status_code == 200, reply.text
    assert re.fullmatch(rf'{{"uid":"{UUID4}"}}', reply.text)
    return reply.json()["uid"]


def state(server: Server, uid: str) -> str:
    return server.client.get(f"/status/{uid}").text


def finished(server: Server, uid: str) -> bytes:
    """The model of a job that was sent."""
    until(lambda: '"completed"' in state(server, uid), "completed")
    text = state(server, uid)
    found = re.fullmatch(r'{"status":"completed","model_base64":"([A-Za-z0-9+/]+=*)"}', text)
    assert found, text[:80]
    return base64.b64decode(found[1], validate=True)


def opened(content: bytes) -> trimesh.Scene:
    scene = trimesh.load(io.BytesIO(content), file_type="glb", process=False)
    assert isinstance(scene, trimesh.Scene)
    return scene


# ---- /send and /status/{uuid} ------------------------------------------------------------


def test_a_sent_job_goes_through_exactly_the_states_that_clients_know(
    server: Server, engine: GatedEngine
) -> None:
    engine.gates["shape"].clear()
    engine.gates["texture"].clear()
    uid = send(server, fields(texture=True))
    assert state(server, uid) == '{"status":"processing"}'
    engine.gates["shape"].set()
    until(lambda: "texturing" in state(server, uid), "texturing")
    assert state(server, uid) == '{"status":"texturing"}'
    engine.gates["texture"].set()
    model = finished(server, uid)
    assert model == server.generate(fields(texture=True)).content
    reply = server.client.get(f"/status/{uid}")
    assert reply.headers["content-type"] == "application/json"
    assert int(reply.headers["content-length"]) == len(reply.content)


def test_without_texture_a_sent_job_is_completed_with_the_shape_and_no_texture_is_begun(
    server: Server, engine: GatedEngine
) -> None:
    uid = send(server, fields())
    model = finished(server, uid)
    assert model == server.generate(fields(texture=False)).content
    assert {stage for stage, _ in engine.calls} - {"load"} == {"shape"}


def test_the_same_job_answers_each_who_sent_it_with_what_that_one_asked_for(
    server: Server, engine: GatedEngine
) -> None:
    plain, textured = send(server, fields()), send(server, fields(texture=True))
    shape, model = finished(server, plain), finished(server, textured)
    assert shape != model
    assert finished(server, plain) == shape
    assert send(server, fields()) == plain
    assert [stage for stage, _ in engine.calls].count("shape") == 1


def test_a_job_that_fails_says_why_and_nothing_else(server: Server, engine: GatedEngine) -> None:
    engine.failures["shape"] = EngineError('the "shape" stage failed')
    uid = send(server, fields())
    until(lambda: "error" in state(server, uid), "error")
    text = state(server, uid)
    assert text == json.dumps(
        {"status": "error", "message": 'the "shape" stage failed'}, separators=(",", ":")
    )


def test_a_sent_picture_that_is_none_is_an_error_of_its_job(server: Server) -> None:
    uid = send(server, {"image": encoded(b"not a picture")})
    until(lambda: "error" in state(server, uid), "error")
    assert json.loads(state(server, uid))["message"].startswith("image")


def test_an_unknown_uid_is_not_found(server: Server) -> None:
    reply = server.client.get(f"/status/{uuid.uuid4()}")
    assert reply.status_code == 404
    assert reply.json().keys() == {"text", "error_code"}


def test_a_hash_gets_the_native_form_and_a_uid_the_other(server: Server) -> None:
    made = server.generate(fields(texture=True))
    native = server.status(made.headers["x-image-hash"])
    assert native["status"] == "completed"
    assert native["uid"] == made.headers["x-job-id"]
    assert finished(server, made.headers["x-job-id"]) == made.content
    assert finished(server, made.headers["x-job-id"].upper()) == made.content


def test_a_uid_that_was_sent_names_the_job_for_the_native_routes_too(server: Server) -> None:
    uid = send(server, fields())
    textured = server.texture(uid=uid)
    assert textured.is_success
    assert textured.headers["x-job-id"] != uid


def test_what_was_sent_is_forgotten_with_its_job() -> None:
    short = {"job_max_age_seconds": 0.2, "job_cleanup_interval_seconds": 0.05}
    with serving(GatedEngine(), settings(worker=short)) as server:
        server.wait_until_loaded()
        uid = send(server, fields())
        until(lambda: server.client.get(f"/status/{uid}").status_code == 404, "forgotten")
        registry = server.manager.registry
        assert not registry._aliases
        assert not registry._alias_of
        assert not registry._by_shape


def test_a_client_that_gives_up_and_asks_again_gets_the_job_it_had(
    server: Server, engine: GatedEngine
) -> None:
    engine.gates["texture"].clear()
    with pytest.raises(httpx.ReadTimeout):
        server.client.post("/generate", json=fields(texture=True), timeout=0.3)
    engine.gates["texture"].set()
    assert server.generate(fields(texture=True)).is_success
    assert server.generate(fields(texture=True)).is_success
    assert [stage for stage, _ in engine.calls].count("shape") == 1
    assert [stage for stage, _ in engine.calls].count("texture") == 1


# ---- health, prefix, keys ----------------------------------------------------------------


def test_health_and_ping_answer_quickly_and_in_form(server: Server) -> None:
    text = server.client.get("/health").text
    assert re.fullmatch(r'{"status":"healthy","worker_id":"[0-9a-z]{6}"}', text)
    assert server.client.get("/health").text == text
    assert server.client.get("/status/test").is_success


def test_health_is_503_while_the_engine_loads() -> None:
    engine = GatedEngine("load")
    with serving(engine) as server:
        until(lambda: hasattr(server.app.state, "manager"), "started")
        reply = server.client.get("/health")
        assert reply.status_code == 503
        assert reply.json()["status"] == "loading"
        assert reply.json().keys() == {"status", "worker_id"}


def test_every_route_is_there_under_api_too(server: Server) -> None:
    client = server.client
    for path in ("/health", "/healthcheck", "/worker_status", "/status/test"):
        assert client.get(f"/api{path}").text == client.get(path).text
    uid = send(server, fields(), "/api")
    assert finished(server, uid) == client.post("/api/generate", json=fields()).content
    assert client.get(f"/api/status/{uid}").text == state(server, uid)
    assert client.post("/api/generate_texture", json={"uid": uid}).is_success


def test_pings_need_no_key_and_jobs_do() -> None:
    with serving(GatedEngine(), settings(server={"api_keys": ["secret"]})) as server:
        server.wait_until_loaded()
        for prefix in ("", "/api"):
            assert server.client.get(f"{prefix}/health").is_success
            assert server.client.get(f"{prefix}/status/test").is_success
            assert server.client.post(f"{prefix}/send", json=fields()).status_code == 401
            assert server.client.get(f"{prefix}/status/{uuid.uuid4()}").status_code == 401


# ---- fields ------------------------------------------------------------------------------


def test_hunyuans_numbers_set_the_first_two_stages_where_nothing_else_does(server: Server) -> None:
    sent = fields(guidance_scale="3.5", num_inference_steps=999, shape_sampling_steps=7)
    options = server.manager.registry.get(server.generate(sent).headers["x-job-id"]).options
    assert (options.ss.guidance_scale, options.shape.guidance_scale) == (3.5, 3.5)
    assert (options.ss.sampling_steps, options.shape.sampling_steps) == (100, 7)
    assert (options.tex.guidance_scale, options.tex.sampling_steps) == (1.0, 12)


@pytest.mark.parametrize("number", [-1e30, 0, 1, 5.5, 10**30, "50"])
def test_no_number_of_a_hunyuan_client_is_refused_for_its_range(
    server: Server, number: object
) -> None:
    names = (
        "octree_resolution", "num_inference_steps", "guidance_scale", "num_chunks",
        "face_count", "mc_algo", "geo_rotation", "diffusion_steps", "texture_size",
    )  # fmt: skip
    for name in names:
        assert server.generate(fields() | {name: number}).is_success, name


@pytest.mark.parametrize("body", [{"text": "a cat"}, {"text": "a cat", "image": None}])
@pytest.mark.parametrize("path", ["/generate", "/send", "/api/generate"])
def test_text_alone_is_refused_with_its_reason(
    server: Server, path: str, body: dict[str, Any]
) -> None:
    reply = server.client.post(path, json={**body, "texture": False})
    assert reply.status_code == 400
    assert "no text-to-image model" in reply.json()["text"]


def test_text_beside_an_image_is_not_looked_at(server: Server) -> None:
    plain, both = server.generate(), server.generate(fields(text="a cat"))
    assert plain.headers["x-job-id"] == both.headers["x-job-id"]


@pytest.mark.parametrize("texture", [False, True])
@pytest.mark.parametrize("kind", ["obj", "ply", "stl"])
def test_other_file_types_show_the_same_model(made: Server, kind: str, texture: bool) -> None:  # noqa: FBT001
    model = made.generate(fields(texture=texture))
    reply = made.generate(fields(texture=texture, type=kind))
    assert reply.headers["content-type"].startswith(f"model/{kind}")
    assert reply.headers["x-job-id"] == model.headers["x-job-id"]
    mesh = trimesh.load(io.BytesIO(reply.content), file_type=kind, process=False)
    known = opened(model.content).to_geometry()
    assert len(mesh.faces) == len(known.faces)
    assert mesh.bounds == pytest.approx(known.bounds, abs=1e-5)
    if texture and kind != "stl":
        colors = np.asarray(mesh.visual.vertex_colors)[:, :3]
        assert np.abs(colors.astype(int) - [0, 0, 200]).max() < 12
    elif kind == "obj":
        assert all(len(line.split()) == 4 for line in reply.text.splitlines() if line[0] == "v")


def test_a_zip_has_the_obj_its_material_and_its_textures(made: Server) -> None:
    reply = made.generate(fields(texture=True, type="obj_zip"))
    assert reply.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(reply.content))
    assert {"model.obj", "model.mtl", "base_color.png"} <= set(archive.namelist())
    assert b"map_Kd base_color.png" in archive.read("model.mtl")
    image = Image.open(io.BytesIO(archive.read("base_color.png")))
    assert image.size == (256, 256)
    mesh = trimesh.load(
        io.BytesIO(archive.read("model.obj")),
        file_type="obj",
        resolver=trimesh.resolvers.ZipResolver(
            {name: io.BytesIO(archive.read(name)) for name in archive.namelist()}
        ),
    )
    colors = np.asarray(mesh.visual.to_color().vertex_colors)[:, :3]
    assert np.abs(colors.astype(int) - [0, 0, 200]).max() < 12
    assert made.generate(fields(texture=True, type="obj_zip")).content == reply.content


def test_a_sent_job_comes_as_the_file_type_it_was_asked_for(made: Server) -> None:
    obj = finished(made, send(made, fields(type="obj")))
    assert obj == made.generate(fields(type="obj")).content


# ---- meshes ------------------------------------------------------------------------------


def flagged() -> bytes:
    """A picture, red on its left and green on its right."""
    image = Image.new("RGBA", (64, 64))
    draw = ImageDraw.Draw(image)
    draw.rectangle((8, 8, 31, 55), fill=(220, 30, 30, 255))
    draw.rectangle((32, 8, 55, 55), fill=(30, 200, 30, 255))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def textured(server: Server, mesh: bytes, **more: Any) -> httpx.Response:
    body = fields(mesh=encoded(mesh), image=encoded(flagged()), texture=True, **more)
    return server.generate(body)


def colors_at(glb: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Places of all vertices in the scene, and the texture's colours there."""
    places, colors = [], []
    scene = opened(glb)
    for name in scene.graph.nodes_geometry:
        transform, geometry = scene.graph[name]
        mesh = scene.geometry[geometry]
        places.append(trimesh.transform_points(mesh.vertices, transform))
        colors.append(np.asarray(mesh.visual.to_color().vertex_colors)[:, :3].astype(int))
    return np.concatenate(places), np.concatenate(colors)


def test_a_given_mesh_comes_back_textured_with_its_tree_and_its_faces(made: Server) -> None:
    mesh = as_bytes(two_nodes(), "glb")
    reply = textured(made, mesh)
    assert reply.status_code == 200, reply.text
    given, got = opened(mesh), opened(reply.content)
    assert set(got.graph.nodes_geometry) == set(given.graph.nodes_geometry)
    for node in given.graph.nodes_geometry:
        old, new = given.graph[node], got.graph[node]
        assert new[0] == pytest.approx(old[0])
        before, after = given.geometry[old[1]], got.geometry[new[1]]
        assert after.triangles == pytest.approx(before.triangles, abs=1e-6)
        assert after.visual.material.baseColorTexture.size == (256, 256)
    assert messages(reply.content) == []


def test_a_picture_is_laid_on_from_the_front_upright_and_not_mirrored(made: Server) -> None:
    reply = textured(made, as_bytes(egg(), "glb"))
    places, colors = colors_at(reply.content)
    seen = (np.abs(places[:, 0]) > 0.3) & (places[:, 2] > 0.2)
    is_red = colors[:, 0] > colors[:, 1]
    # The front is +Z and up is +Y, so what is on the picture's left is at -X.
    assert (is_red == (places[:, 0] < 0))[seen].all()
    behind = (np.abs(places[:, 0]) > 0.8) & (places[:, 2] < 0)
    assert (is_red == (places[:, 0] < 0))[behind].all()


def test_geo_rotation_turns_what_the_picture_is_laid_on_and_not_the_reply(made: Server) -> None:
    reply = textured(made, as_bytes(egg(), "glb"), geo_rotation=180)
    places, colors = colors_at(reply.content)
    assert places.max(0) == pytest.approx(egg().bounds[1], abs=1e-5)
    seen = (np.abs(places[:, 0]) > 0.3) & (places[:, 2] < -0.2)
    assert ((colors[:, 0] > colors[:, 1]) == (places[:, 0] > 0))[seen].all()


@pytest.mark.parametrize("kind", ["obj", "ply", "stl"])
def test_other_mesh_files_come_back_as_a_textured_glb(made: Server, kind: str) -> None:
    reply = textured(made, as_bytes(egg(), kind))
    mesh = opened(reply.content).to_geometry()
    assert len(mesh.faces) == 1280
    assert mesh.bounds == pytest.approx(egg().bounds, abs=1e-6)
    assert messages(reply.content) == []


def test_a_mesh_can_be_textured_by_the_other_route_and_as_files(made: Server) -> None:
    mesh = as_bytes(egg(), "glb")
    one = textured(made, mesh)
    other = made.client.post(
        "/generate_texture",
        files={"image": flagged(), "mesh": mesh},
        data={"seed": "1", "texture_size": "256", "decimation_target": "2000", "use_pbr": "true"},
    )
    assert other.status_code == 200, other.text
    assert other.content == one.content
    assert (
        finished(
            made, send(made, fields(mesh=encoded(mesh), image=encoded(flagged()), texture=True))
        )
        == one.content
    )


def test_another_mesh_is_another_job_and_the_same_one_is_not(made: Server) -> None:
    one, same = textured(made, as_bytes(egg(), "glb")), textured(made, as_bytes(egg(), "glb"))
    other = textured(made, as_bytes(egg(), "stl"))
    turned = textured(made, as_bytes(egg(), "glb"), geo_rotation=90)
    uids = [reply.headers["x-job-id"] for reply in (one, same, other, turned)]
    assert uids[0] == uids[1]
    assert len(set(uids)) == 3


def test_without_texture_a_given_mesh_comes_back_plain(made: Server) -> None:
    body = fields(mesh=encoded(as_bytes(egg(), "stl")), texture=False)
    mesh = opened(made.generate(body).content).to_geometry()
    assert len(mesh.faces) == 1280


@pytest.mark.parametrize("more", [{}, {"image": encoded(picture(0, 64, "WEBP"))}, {"image": None}])
def test_the_servers_own_shape_gets_its_jobs_texture(
    server: Server, engine: GatedEngine, more: dict[str, Any]
) -> None:
    shape = server.generate(fields(texture=False))
    body = {**fields(), **more, "mesh": encoded(shape.content)}
    reply = server.client.post("/generate_texture", json=body)
    assert reply.headers["x-job-id"] == shape.headers["x-job-id"]
    assert reply.content == server.texture(uid=shape.headers["x-job-id"]).content
    assert "texture_mesh" not in {stage for stage, _ in engine.calls}


def test_the_servers_own_shape_with_another_picture_is_textured_after_that(
    server: Server, engine: GatedEngine
) -> None:
    shape = server.generate(fields(texture=False))
    reply = server.generate(fields(5, mesh=encoded(shape.content), texture=True))
    assert reply.headers["x-job-id"] != shape.headers["x-job-id"]
    assert ("texture_mesh", 1) in engine.calls


def test_a_mesh_without_a_picture_is_refused_with_its_reason(server: Server) -> None:
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
        (encoded(ply(1_000_000_000, 1)), "mesh: the PLY file claims more than it has"),
        (encoded(bytes(80) + struct.pack("<I", 10**9) + bytes(50)), "mesh: not a GLB"),
        (encoded(as_bytes(egg(), "glb")[:-100]), "mesh: the GLB is cut short"),
    ],
)
def test_a_mesh_that_is_none_is_refused_with_its_reason(
    server: Server, mesh: object, cause: str
) -> None:
    reply = server.generate(fields(mesh=mesh, texture=True))
    assert reply.status_code == 400
    assert reply.json()["text"].startswith(cause)


def test_meshes_and_models_are_not_kept_by_a_job_that_is_done(server: Server) -> None:
    uid = textured(server, as_bytes(egg(), "glb")).headers["x-job-id"]
    assert uid not in server.manager.active_jobs
