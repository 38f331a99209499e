"""Groups of `bench/same.py` that are about the command lines, of the server and of the client."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import same_files
from bench.same_server import CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.same_server import Side

ENTRY: Final = "api_server_trellis2.py"
#: Sections of configurations that are refused, or parts of files that are none.
WRONG: Final[dict[str, object]] = {
    "not JSON": "{",
    "a list": [],
    "unknown section": {"servers": {}},
    "section of another type": {"server": 1},
    "unknown key": {"server": {"prot": 1}},
    "unknown key of the model": {"model": {"engin": "preview"}},
    "comment": {"_comment": "x", "server": {"_port": 1, "port": -1}},
    "port as text": {"server": {"port": "8082"}},
    "port too high": {"server": {"port": 65_536}},
    "log level": {"server": {"log_level": "loud"}},
    "empty host": {"server": {"host": ""}},
    "empty key": {"server": {"api_keys": ["a", " "]}},
    "key no text": {"server": {"api_keys": [1]}},
    "key file": {"server": {"api_keys_file": "/nowhere/keys"}},
    "proxies": {"server": {"trusted_proxies": ["10.0.0.0/33"]}},
    "rate": {"server": {"rate_per_minute": 0}},
    "body": {"server": {"max_body_bytes": 10}},
    "engine": {"model": {"engine": "hunyuan"}},
    "device": {"model": {"device": "gpu"}},
    "background": {"model": {"background": "blue"}},
    "background model": {"model": {"background_model": "../x"}},
    "seed": {"generation": {"seed": -2}},
    "float seed": {"generation": {"seed": 1.5}},
    "pipeline type": {"generation": {"pipeline_type": 512}},
    "steps": {"generation": {"tex_sampling_steps": 0}},
    "texture size": {"export": {"glb_texture_size": 300}},
    "faces": {"export": {"glb_decimation_target": 10}},
    "compress": {"export": {"compress": "zip"}},
    "flag": {"export": {"remesh": "yes"}},
    "age": {"worker": {"job_max_age_seconds": 31_536_001}},
    "not finite": '{"worker": {"job_max_age_seconds": NaN}}',
    "result dir": {"worker": {"result_dir": ""}},
    "concurrency": {"worker": {"limit_model_concurrency": True}},
    "null": {"worker": {"max_queue_length": None}},
}


def commands(side: Side) -> None:
    """The command line: help, checks, wrong configurations, one picture to two files."""
    folder = side.folder
    good, picture = folder / "good.json", folder / "picture.png"
    good.write_text(json.dumps(CONFIG), encoding="utf-8")
    picture.write_bytes(same_files.picture(1))
    broken = folder / "broken.png"
    broken.write_bytes(b"no picture")
    for label, arguments in (
        ("help", ["--help"]), ("version", ["--version"]), ("unknown", ["--nothing"]),
        ("port no number", ["--port", "x"]), ("port too high", ["--port", "99999", "--check"]),
        ("check", ["--config", str(good), "--check", "--host", "0.0.0.0"]),  # noqa: S104
        ("no file", ["--config", str(folder / "none.json"), "--check"]),
        ("a folder", ["--config", str(folder), "--check"]),
        ("no picture", ["--config", str(good), "--image", str(folder / "none.png")]),
        ("broken picture", ["--config", str(good), "--image", str(broken), "--output",
                            str(folder / "broken")]),
        ("one picture", ["--config", str(good), "--image", str(picture), "--output",
                         str(folder / "out")]),
        ("no output", ["--config", str(good), "--image", str(picture), "--output", str(picture)]),
    ):  # fmt: skip
        side.note_command(label, ENTRY, *arguments)
    _note_files(side, folder / "out")
    own = sorted(side.checkout.glob("api_server_config_*.json"))
    side.note_json(
        "configurations", [(file.name, file.read_text(encoding="utf-8")) for file in own]
    )
    for file in own:
        side.note_command(f"check {file.name}", ENTRY, "--config", str(file), "--check")
    wrong = folder / "wrong.json"
    for label, content in WRONG.items():
        wrong.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        side.note_command(f"wrong: {label}", ENTRY, "--config", str(wrong), "--check")
    side.note_command("empty keys", ENTRY, "--config", str(good), "--check",
                      TRELLIS2_SERVER_API_KEYS=" , ")  # fmt: skip
    side.note_command("keys", ENTRY, "--config", str(good), "--check",
                      TRELLIS2_SERVER_API_KEYS="a,b")  # fmt: skip


def _note_files(side: Side, folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    side.note_json(f"files in {folder.name}", [str(path.relative_to(folder)) for path in files])
    for path in files:
        side.note(f"{folder.name}/{path.relative_to(folder)}", path.read_bytes())


# ---- the client ------------------------------------------------------------------------


def client(side: Side) -> None:
    """The terminal client: what it prints, writes and returns."""
    folder = side.folder / "client"
    folder.mkdir()
    for shade in (1, 2):
        (folder / f"{shade}.png").write_bytes(same_files.picture(shade))
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "mesh.stl").write_bytes(same_files.stl())
    (folder / "key.txt").write_text("first-key\n", encoding="utf-8")
    small = ["--decimation-target", "1000", "--texture-size", "256"]
    one_by_one = ["--jobs", "1"]
    with side.serving("client") as server:
        to = ["--server", f"http://127.0.0.1:{server.port}"]
        for label, arguments in (
            ("help", ["--help"]), ("version", ["--version"]), ("nothing", []),
            ("no such file", ["none.png"]), ("jobs", ["--jobs", "0", "1.png"]),
            ("mesh and shape", ["--mesh", "mesh.stl", "--shape-only", "1.png"]),
            ("with shape of a mesh", ["--mesh", "mesh.stl", "--with-shape", "1.png"]),
            ("bad option", ["--option", "x", "1.png"]), ("bad type", ["--type", "fbx", "1.png"]),
            ("bad pattern", ["-o", "{nothing}.glb", "1.png"]),
            ("patience", ["--patience", "-1", "1.png"]),
            ("bad number", ["--seed", "x", "1.png"]),
            ("key file", ["--api-key-file", "no", "1.png"]),
            ("bad address", ["--server", "nothing://x", "1.png"]),
            ("server down", ["--server", "http://127.0.0.1:9", "--patience", "0", "1.png"]),
            ("server down, JSON", ["--server", "http://127.0.0.1:9", "--json", "1.png"]),
            ("one", [*to, *small, "1.png"]),
            ("JSON", [*to, *small, "--json", "-o", "json/", "1.png", "--thumbnail"]),
            ("shape", [*to, *small, "--json", "--shape-only", "-o", "shape.glb", "1.png"]),
            ("several", [*to, *small, *one_by_one, "--with-shape", "-o", "2/", "1.png", "2.png"]),
            ("quiet", [*to, *small, "-q", "-o", "quiet.glb", "1.png"]),
            ("pattern", [*to, *small, "-o", "p/{stem}_{seed}_{index}_{hash}.glb", "1.png"]),
            ("obj", [*to, *small, "--type", "obj", "--thumbnail", "-o", "o/", "1.png"]),
            ("zip", [*to, *small, "--type", "obj_zip", "-o", "z/", "1.png"]),
            ("mesh", [*to, *small, "--mesh", "mesh.stl", "--json", "-o", "m/", "1.png"]),
            ("broken", [*to, *small, "broken.png", "-o", "b/"]),
            ("broken, JSON", [*to, *small, "--json", *one_by_one, "broken.png", "1.png"]),
            ("options", [*to, *small, "--seed", "7", "--option", "remesh=true", "--json",
                         "-o", "s/", "--no-remove-background", "--alpha-mode", "BLEND", "2.png"]),
            ("refused option", [*to, "--option", "seed=half", "--json", "1.png"]),
        ):  # fmt: skip
            _ask(side, label, arguments)
    _note_files(side, folder)
    with side.serving("closed", server={"api_keys": ["first-key"]}) as server:
        to = ["--server", f"http://127.0.0.1:{server.port}", *small, "-o", "k/", "1.png"]
        for label, arguments in (
            ("no key", to), ("wrong key", [*to, "--api-key", "x"]),
            ("right key", [*to, "--api-key", "first-key", "--shape-only"]),
            ("key in a file", [*to, "--api-key-file", "key.txt", "--json"]),
        ):  # fmt: skip
            _ask(side, label, arguments)
    _note_files(side, folder / "k")


#: Lines of progress: timing decides which of them are there.
_PROGRESS: Final = re.compile(
    r"\S+\.png: (shape|texture|download|the untextured model is there|waiting, number \d+ .*)"
)


def _ask(side: Side, label: str, arguments: list[str]) -> None:
    """Record what the client does."""
    done = side.command("-m", "trellis2_server.client", *arguments, cwd=side.folder / "client")
    told = [line for line in done.stderr.splitlines() if not _PROGRESS.fullmatch(line)]
    # A shape may be written before its model, or after it.
    said = "\n".join(["--- out", *sorted(done.stdout.splitlines()), "--- err", *told])
    side.note(label, f"exit {done.returncode}\n{said}")


def library(side: Side) -> None:
    """Files that the exporter writes of arrays, with textures that no other group has."""
    folder = side.folder / "library"
    folder.mkdir()
    script = Path(__file__).resolve().with_name("same_library.py")
    side.note_command("library", str(script), str(folder))
    _note_files(side, folder)


GROUPS: Final[dict[str, Callable[[Side], None]]] = {
    "commands": commands,
    "client": client,
    "library": library,
}
