"""Clients of StableProjectorz' servers and Unity's client, with their requests."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.server import encoded, picture, serving, settings, until

if TYPE_CHECKING:
    from collections.abc import Generator

    import httpx

    from tests.support.server import Server


@pytest.fixture(scope="module")
def engine() -> GatedEngine:
    return GatedEngine()


@pytest.fixture(scope="module")
def small(engine: GatedEngine) -> Generator[Server]:
    protocols = ["native", "hunyuan", "stableprojectorz", "unity"]
    configured = settings(
        export={"glb_texture_size": 256, "glb_decimation_target": 2000},
        server={"protocols": protocols},
    )
    with serving(engine, configured) as server:
        server.wait_until_loaded()
        yield server


def text_of(reply: httpx.Response, status: int = 400) -> str:
    assert reply.status_code == status, reply.text
    return reply.json()["text"]


def newest(server: Server) -> dict[str, Any]:
    return server.client.get("/jobs?limit=1").json()["jobs"][0]


# ---- StableProjectorz: one generation at a time, without a name ----------------------------------

#: What the documentation of its servers sends.
FORM = {
    "seed": 42,
    "ss_guidance_strength": 7.5,
    "ss_sampling_steps": 30,
    "slat_guidance_strength": 3.0,
    "slat_sampling_steps": 20,
    "mesh_simplify_ratio": 0.95,
    "texture_size": 1024,
    "output_format": "glb",
}


def test_the_documented_script_generates_polls_and_downloads(small: Server) -> None:
    ping = small.client.get("/ping").json()
    assert ping.keys() == {"status", "message", "busy"}
    assert (ping["status"], ping["busy"]) == ("running", False)
    reply = small.client.post(
        "/generate_no_preview", data={**FORM, "image_base64": encoded(picture(1))}
    )
    assert reply.status_code == 200, reply.text
    assert reply.json().keys() == {"status", "progress", "message", "preview_urls", "model_url"}
    assert (reply.json()["status"], reply.json()["progress"]) == ("COMPLETE", 100)
    status = small.client.get("/status").json()
    assert status.keys() == {"status", "progress", "message", "busy"}
    until(lambda: small.client.get("/status").json()["status"] == "COMPLETE", "complete")
    model = small.client.get("/download/model")
    assert model.content[:4] == b"glTF"
    assert model.headers["content-disposition"] == 'attachment; filename="model.glb"'
    assert small.client.get(reply.json()["model_url"]).content == model.content
    assert small.client.head("/download/model").status_code == 200
    parameters = newest(small)["parameters"]
    assert parameters["ss_guidance_scale"] == 7.5
    assert (parameters["shape_guidance_scale"], parameters["tex_guidance_scale"]) == (3, 1)
    steps = [parameters[f"{stage}_sampling_steps"] for stage in ("ss", "shape", "tex")]
    assert steps == [30, 20, 20]
    assert (parameters["decimation_target"], parameters["texture_size"]) == (50_000, 1024)


@pytest.mark.parametrize(
    ("path", "name"),
    [("/generate_no_preview", "file"), ("/generate_multi_no_preview", "file_list")],
)
def test_a_picture_may_be_a_file(small: Server, path: str, name: str) -> None:
    files = {name: ("a.png", picture(2), "image/png")}
    assert small.client.post(path, data=FORM, files=files).json()["status"] == "COMPLETE"


def test_a_list_of_base64_may_have_one_picture(small: Server) -> None:
    form = {**FORM, "image_list_base64": [encoded(picture(3))]}
    reply = small.client.post("/generate_multi_no_preview", data=form)
    assert reply.json()["status"] == "COMPLETE"


def test_several_pictures_are_several_views(small: Server) -> None:
    files = [("file_list", (f"{shade}.png", picture(shade), "image/png")) for shade in (51, 52)]
    form = {**FORM, "image_list_base64": [encoded(picture(53)), encoded(picture(54))]}
    for sent in ({"data": FORM, "files": files}, {"data": form}, {"json": form}):
        reply = small.client.post("/generate_multi_no_preview", **sent)
        assert reply.json()["status"] == "COMPLETE", reply.text
        assert "input-2.png" in newest(small)["files"]


@pytest.mark.parametrize("name", ["file_list", "image_list_base64"])
def test_eight_pictures_are_taken_and_nine_refused(small: Server, name: str) -> None:
    def ask(count: int) -> httpx.Response:
        pictures = [picture(60 + each, size=32) for each in range(count)]
        if name == "file_list":
            files = [(name, ("a.png", each, "image/png")) for each in pictures]
            return small.client.post("/generate_multi_no_preview", data=FORM, files=files)
        form = {**FORM, name: [*map(encoded, pictures)]}
        return small.client.post("/generate_multi_no_preview", data=form)

    assert ask(8).json()["status"] == "COMPLETE"
    assert text_of(ask(9)) == "images: 9 pictures, and at most 8 are allowed"


@pytest.mark.parametrize(
    ("field", "value", "faces"),
    [
        ("mesh_simplify_ratio", 0, 1_000_000),
        ("mesh_simplify_ratio", 1, 1_000),
        ("mesh_simplify_ratio", 90, 100_000),
        ("mesh_simplify_ratio", 100, 1_000),
        ("mesh_simplify", 10, 10_000),
        ("mesh_simplify", 500, 500_000),
        ("decimation_target", 3_000, 3_000),
    ],
)
def test_simplification_is_a_number_of_faces(
    small: Server, field: str, value: float, faces: int
) -> None:
    form = {"seed": 1, "texture_size": 256, field: value, "apply_texture": "false"}
    files = {"file": ("a.png", picture(4), "image/png")}
    assert small.client.post("/generate_no_preview", data=form, files=files).is_success
    assert newest_with(small, faces)


def newest_with(server: Server, faces: int) -> bool:
    jobs = server.client.get("/jobs?limit=100").json()["jobs"]
    return faces in {job["parameters"]["decimation_target"] for job in jobs}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mesh_simplify_ratio", -0.1),
        ("mesh_simplify_ratio", 100.1),
        ("mesh_simplify_ratio", "nan"),
        ("mesh_simplify", "few"),
        ("seed", "1e99"),
        ("output_format", "fbx"),
    ],
)
def test_what_makes_no_sense_is_refused(small: Server, field: str, value: object) -> None:
    files = {"file": ("a.png", picture(5), "image/png")}
    reply = small.client.post("/generate_no_preview", data={**FORM, field: value}, files=files)
    assert text_of(reply).startswith(f"{field}: ")


def test_a_seed_below_zero_is_one_of_its_own(small: Server) -> None:
    files = {"file": ("a.png", picture(6), "image/png")}
    for sent, seed in ((-2, 2**32 - 2), (-2_147_483_647, 2_147_483_649)):
        form = {**FORM, "seed": sent}
        assert small.client.post("/generate_no_preview", data=form, files=files).is_success
        assert newest(small)["seed"] == seed


def test_an_interrupt_cancels_the_generation(engine: GatedEngine, small: Server) -> None:
    assert small.client.post("/interrupt").json() == {"status": "no_generation_in_progress"}
    gate = engine.hold("shape", 88)
    replies: list[httpx.Response] = []
    form = {**FORM, "seed": 88, "image_base64": encoded(picture(7))}
    thread = threading.Thread(
        target=lambda: replies.append(small.client.post("/generate_no_preview", data=form))
    )
    thread.start()
    engine.wait_for("shape")
    until(lambda: small.client.get("/ping").json()["busy"], "busy")
    status = small.client.get("/status").json()
    assert (status["status"], status["busy"]) == ("PROCESSING", True)
    assert small.client.post("/interrupt").json() == {"status": "interrupt_requested"}
    gate.set()
    thread.join(PATIENCE_S)
    assert text_of(replies[0], 409)
    until(lambda: small.client.get("/status").json()["status"] == "FAILED", "failed")
    assert text_of(small.client.get("/download/model"), 404) == "there is no model yet"


def test_the_operations_are_a_list(small: Server) -> None:
    assert small.client.get("/info/supported_operations").json() == ["make_meshes_and_tex"]


def test_nothing_was_generated_before_the_first_generation() -> None:
    with serving(GatedEngine(), settings(server={"protocols": ["stableprojectorz"]})) as server:
        status = server.client.get("/status").json()
        assert status == {"status": "FAILED", "progress": 0, "message": "", "busy": False}
        text_of(server.client.get("/download/model"), 404)


# ---- Unity: submit, poll, download ---------------------------------------------------------------


def submit(server: Server, shade: int, query: str) -> httpx.Response:
    files = {"file": ("input.png", picture(shade), "image/png")}
    return server.client.post(f"/submit/image?{query}", files=files)


def test_unitys_client_submits_polls_and_downloads(small: Server) -> None:
    assert small.client.get("/health").is_success
    submitted = submit(small, 20, "quality=superfast&seed=-1").json()
    assert (submitted.keys(), submitted["status"]) == ({"job_id", "status"}, "queued")
    states: list[dict[str, Any]] = []

    def is_done() -> bool:
        states.append(small.client.get(f"/status/{submitted['job_id']}").json())
        assert states[-1]["status"] in {"queued", "running", "done"}
        assert states[-1]["stage_description"]
        return states[-1]["status"] == "done"

    until(is_done, "done")
    assert states[-1]["job_id"] == submitted["job_id"]
    result = states[-1]["result"]
    assert small.client.get(f"{small.url}/{result['glb']}").content[:4] == b"glTF"
    assert small.client.get(f"{small.url}/{result['image']}").content[:4] == b"\x89PNG"
    parameters = newest(small)["parameters"]
    assert (parameters["pipeline_type"], parameters["texture_size"]) == ("512", 512)
    assert {parameters[f"{stage}_sampling_steps"] for stage in ("ss", "shape", "tex")} == {4}
    assert parameters["decimation_target"] == 30_000


@pytest.mark.parametrize(
    ("quality", "pipeline_type"),
    [("fast", "512"), ("balanced", "1024_cascade"), ("high", "1536_cascade"), ("", "1024_cascade")],
)
def test_every_quality_of_unitys_client_is_known(
    small: Server, quality: str, pipeline_type: str
) -> None:
    reply = submit(small, 21, f"quality={quality}&seed=2&texture_size=256")
    assert reply.is_success
    uid = reply.json()["job_id"].removeprefix("job-")
    assert small.client.get(f"/jobs/{uid}").json()["parameters"]["pipeline_type"] == pipeline_type


def test_unitys_client_is_told_what_is_wrong(small: Server) -> None:
    assert text_of(submit(small, 22, "quality=best")).startswith("quality: ")
    body = {"prompt": "a chair", "quality": "fast", "seed": 1}
    assert "text_to_image.url" in text_of(small.client.post("/submit/text", json=body))
    text_of(small.client.get(f"/status/job-{'0' * 8}"), 404)


def test_a_failed_job_has_its_error(engine: GatedEngine, small: Server) -> None:
    gate = engine.hold("shape", 99)
    job_id = submit(small, 23, "quality=fast&seed=99").json()["job_id"]
    small.client.delete(f"/jobs/{job_id.removeprefix('job-')}")
    gate.set()
    until(lambda: small.client.get(f"/status/{job_id}").json()["status"] == "failed", "failed")
    assert small.client.get(f"/status/{job_id}").json()["error"]


def test_the_other_statuses_are_as_before(small: Server) -> None:
    sent = small.client.post("/send", json={"image": encoded(picture(24)), "seed": 1}).json()
    hunyuan = small.client.get(f"/status/{sent['uid']}").json()
    assert hunyuan["status"] in {"processing", "texturing", "completed"}
    assert small.client.get("/status/test").json() == {"status": "ok"}
