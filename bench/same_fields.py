"""Group of `bench/same.py` that is about a request's fields: names, aliases, bounds, defaults."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from bench.same_files import picture
from bench.same_models import encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.same_server import Server, Side

_STAGES: Final = ("ss", "shape", "shape_slat", "tex", "tex_slat")


def _staged(*names: str) -> tuple[str, ...]:
    return tuple(f"{stage}_{name}" for stage in _STAGES for name in names)


#: Every field that is a number, under each of its names: below, at, in, at and over its bounds.
NUMBERS: Final[dict[tuple[str, ...], Sequence[object]]] = {
    ("seed",): (-2, -1.5, 0, 7, 2**32 - 1, 2**32, "12", 3.0),
    (*_staged("guidance_scale", "guidance_strength"), "guidance_scale"): (-1, 0, 3.5, 20, 21),
    (*_staged("sampling_steps"), "num_inference_steps", "diffusion_steps"): (0, 1, 25, 100, 101),
    _staged("guidance_rescale"): (-0.1, 0, 0.4, 1, 1.1),
    _staged("rescale_t"): (0.9, 1, 4.5, 20, 21),
    ("max_num_tokens",): (4095, 4096, 50_000, 262_144, 262_145),
    ("decimation_target", "glb_decimation_target", "face_count"): (
        0, 999, 1000, 123_456, 16_777_216, 16_777_217,
    ),
    ("texture_size", "glb_texture_size"): (-1, 1, 255, 256, 383, 724, 725, 8192, 9000),
    ("resolution",): (0, 512, 767, 768, 769, 1024, 1280, 1281, 1536, 5000),
    ("geo_rotation",): (-10, 0, 45, 361),
    ("octree_resolution", "num_chunks"): (0, 256),
}  # fmt: skip
CHOICES: Final[dict[str, Sequence[object]]] = {
    "type": ("glb", "obj", "ply", "stl", "obj_zip", "OBJ", " stl ", "fbx", "", 3),
    "pipeline_type": ("512", 512, "1024", "1024_cascade", "1536_CASCADE", "2048", ""),
    "alpha_mode": ("auto", "opaque", "Mask", "BLEND", "clear"),
    "texture_format": ("auto", "webp", "PNG", "jpeg", "jpg", "ktx2"),
    "compress": ("meshopt", "DRACO", "none", "", "null", False, "zip", 1),
    "mc_algo": ("dmc", "mc"),
}
FLAGS: Final = ("texture", "remove_background", "no_rembg", "remesh")
SAID: Final = (
    True, False, "true", "False", 1, 0, "yes", "OFF", " on ", "2", 2, None, [],
)  # fmt: skip
#: Sent for one field of each way to read it.
ODD: Final = (
    None, True, False, "x", "", " 7 ", "1e1", "+3", "0x10", "nan", "inf", float("nan"),
    float("-inf"), 10**400, "9" * 500, [1], [], {}, {"a": 1}, "½", "7.5", 2.5, 3.5,
)  # fmt: skip
INTERVALS: Final = (
    [0, 1], [0.2, 0.6], [-1, 2], [0.6, 0.2], "0.1, 0.9", "[0.1 0.5]", "(0,1)", "0.5", [1],
    [0, 1, 2], [], ["0.3", "0.4"], [True, 1], ["x", 1], 0.5, "a,b", None, {},
)  # fmt: skip
TOGETHER: Final[tuple[dict[str, Any], ...]] = (
    {"guidance_scale": 3, "num_inference_steps": 9},
    {"guidance_scale": 3, "ss_guidance_scale": 4},
    {"guidance_scale": 3, "shape_slat_guidance_strength": 4, "num_inference_steps": 9},
    {"ss_guidance_strength": 2, "ss_guidance_scale": 4},
    {"shape_slat_guidance_scale": 2, "shape_guidance_strength": 4},
    {"decimation_target": 2000, "face_count": 3000, "glb_decimation_target": 4000},
    {"face_count": 3000, "glb_decimation_target": 4000},
    {"decimation_target": None, "face_count": 3000},
    {"texture_size": 512, "glb_texture_size": 1024},
    {"pipeline_type": "512", "resolution": 1536},
    {"no_rembg": True, "remove_background": True},
    {"no_rembg": False, "remove_background": False},
    {"no_rembg": True},
    {"type": "obj", "compress": "draco"},
    {"type": "glb", "compress": "draco"},
    {"tex_sampling_steps": 3, "diffusion_steps": 5},
    {"unknown": 1, "Seed": 5, "TEXTURE_SIZE": 512},
    {"seed": 1.0, "texture": "YES", "remesh": "Off"},
)


def _single() -> Iterator[tuple[str, object]]:
    """Every field by itself, with each of its values."""
    for names, values in NUMBERS.items():
        for place, name in enumerate(names):
            odd = ODD if place == 0 else ("x", "4.5")
            yield from ((name, value) for value in (*values, *odd))
    for name, values in CHOICES.items():
        yield from ((name, value) for value in (*values, None, [], True))
    for name in FLAGS:
        yield from ((name, value) for value in SAID)
    for name in _staged("guidance_interval"):
        yield from ((name, value) for value in INTERVALS)


def fields(side: Side) -> None:
    """Every field with values in, at and out of its bounds, and what the job says of them."""
    with side.serving("fields") as server:
        for name, value in _single():
            _send(server, {name: value})
        for together in TOGETHER:
            _send(server, together)
        _forms(server)
    generation = {
        "seed": 9, "pipeline_type": "512", "max_num_tokens": 5000, "ss_guidance_scale": 1.5,
        "ss_sampling_steps": 2, "shape_guidance_scale": 2.5, "shape_sampling_steps": 3,
        "tex_guidance_scale": 3.5, "tex_sampling_steps": 4,
    }  # fmt: skip
    export = {
        "glb_decimation_target": 1500, "glb_texture_size": 512, "remesh": True,
        "alpha_mode": "BLEND", "texture_format": "png", "compress": "meshopt",
    }  # fmt: skip
    with side.serving("configured", generation=generation, export=export) as server:
        _send(server, {}, small={})
        _send(server, {"seed": None, "compress": "none", "remesh": False}, small={})
        server.ask("configured options", "GET", "/page/options")
        server.ask("configured model", "POST", "/generate", json={"image": _PICTURE})
    with side.serving("defaults", leave_out="export") as server:
        _send(server, {}, small={})
        server.ask("default options", "GET", "/page/options")


#: Nothing that would hide a field's other names.
SEEDED: Final = {"seed": 5}
_PICTURE: Final = encoded(picture(1, 48))


def _send(server: Server, given: dict[str, Any], small: dict[str, Any] = SEEDED) -> None:
    """Record what becomes of these fields, as JSON, without waiting for the job's end."""
    body = json.dumps({"image": _PICTURE, "texture": False, **small, **given})
    content = body.encode()
    label = f"{given!r:.70}{' by itself' if not small else ''}"
    reply = server.client.post(
        "/send", content=content, headers={"Content-Type": "application/json"}
    )
    _note(server, label, reply)


def _note(server: Server, label: str, reply: Any) -> None:
    if reply.status_code != 200:
        server.side.note_reply(label, reply)
        return
    job = server.client.get(f"/jobs/{reply.json()['uid']}").json()
    parameters: dict[str, Any] = job["parameters"]
    is_random = "seed" in label and any(sign in label for sign in ("-1", "None", "-1.0"))
    seed = "random" if is_random else job["seed"]
    server.side.note_json(label, {**parameters, "seed": seed})
    server.client.delete(f"/jobs/{job['uid']}")


def _forms(server: Server) -> None:
    """The same by form and in the query, where everything is a string."""
    content = picture(1, 48)
    for given in (
        {"seed": "8", "texture_size": "300"}, {"remesh": "true", "compress": ""}, {"seed": ""},
        {"ss_guidance_interval": "0.1,0.4"}, {"alpha_mode": "blend"}, {"face_count": "1e4"},
    ):  # fmt: skip
        data = {"texture": "false", **given}
        reply = server.client.post("/send", data=data, files={"image": ("a.png", content)})
        _note(server, f"form {given}", reply)
        headers = {"Content-Type": "image/png"}
        reply = server.client.post("/send", params=data, content=content, headers=headers)
        _note(server, f"query {given}", reply)


GROUPS: Final[dict[str, Callable[[Side], None]]] = {"fields": fields}
