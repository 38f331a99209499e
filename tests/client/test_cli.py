"""The client's command line, as people and scripts meet it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.faults import cut, reply
from tests.support.server import Server, picture, serving, settings, until
from trellis2_server.client import UsageError, cli, display, steps
from trellis2_server.client.options import OPTIONS
from trellis2_server.client.progress import Progress
from trellis2_server.client.results import PLACEHOLDERS, read_names, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    Say = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]
SMALL = ("--texture-size", "256", "--decimation-target", "2000")


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_PAUSE_S", "POLL_S", "LOADING_POLL_S"):
        monkeypatch.setattr(steps, name, 0.01)
    monkeypatch.setattr(cli, "FIRST_CONTACT_S", 0.0)


@pytest.fixture
def say(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Say:
    """Runs it in a folder of its own with two pictures; exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRELLIS2_SERVER", server.url)
    Path("one.png").write_bytes(picture(1))
    Path("two.png").write_bytes(picture(2))

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main([*SMALL, *map(str, arguments)])
        except SystemExit as left:  # argparse's
            code = int(str(left.code))
        return code, *capsys.readouterr()

    return run


def made() -> list[str]:
    return sorted(
        str(path) for path in Path().rglob("*") if path.suffix != ".png" or "_" in path.stem
    )


# ---- what comes out ------------------------------------------------------------------------------


def test_a_script_gets_paths_and_nothing_else(say: Say) -> None:
    code, output, progress = say("one.png", "two.png", "--jobs", 1, "--seed", 3)
    assert code == 0
    assert output == "one.glb\ntwo.glb\n"
    assert Path("one.glb").read_bytes()[:4] == b"glTF"
    assert made() == ["one.glb", "two.glb"]
    steps_of_one, _, _ = progress.partition("two.png")
    assert re.fullmatch(
        r"(one\.png: (waiting.*|shape|texture|the untextured.*)\n)*"
        r"one\.png: download\none\.png: done in \d+\.\d s, seed 3, gated\n",
        steps_of_one,
    )
    assert not re.search(r"[^\x20-\x7e\n]", progress)
    assert len(progress.splitlines()) < 14


def test_json_says_all_there_is_to_say(say: Say, server: Server) -> None:
    code, output, _ = say("one.png", "--json", "--with-shape", "--thumbnail", "--output", "out/")
    assert code == 0
    (said,) = [json.loads(line) for line in output.splitlines()]
    files = {
        "model": "out/one.glb",
        "shape": "out/one_shape.glb",
        "thumbnail": "out/one_thumbnail.png",
    }
    assert said["files"] == {kind: str(Path(path)) for kind, path in files.items()}
    assert (said["seed"], said["engine"], said["background"]) == (42, "gated", "alpha")
    assert server.status(said["image_hash"])["uid"] == said["uid"]
    assert Path("out/one_shape.glb").read_bytes() != Path("out/one.glb").read_bytes()
    with Image.open("out/one_thumbnail.png") as shown:
        assert shown.size == (512, 512)


def test_the_shape_is_written_while_its_texture_is_made(
    say: Say, server: Server, engine: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.gates["texture"].clear()
    written: list[str] = []

    def write(path: Path, content: bytes) -> None:
        write_whole(path, content)
        written.append(str(path))
        engine.open_all()

    monkeypatch.setattr(cli, "write_whole", write)
    assert say("one.png", "--with-shape")[0] == 0
    assert written == ["one_shape.glb", "one.glb"]
    del server


def test_every_option_reaches_the_server(say: Say, server: Server) -> None:
    values = {"boolean": [], "interval": ["0.2", "0.9"], "integer": ["5000"], "number": ["2"]}
    arguments: list[str] = []
    for option in OPTIONS:
        if option.name in {"compress", "geo_rotation", "resolution"}:
            continue  # what they do needs other results
        value = [str(option.choices[0])] if option.choices else values[option.kind]
        if option.bounds and option.kind == "integer":
            value = [str(int(min(option.bounds[1], 5000)))]
        arguments += [f"--{option.name.replace('_', '-')}", *value]
    code, output, _ = say("one.png", "--json", "--shape-only", *arguments)
    assert code == 0
    uid = json.loads(output)["uid"]
    parameters = server.client.get(f"/jobs/{uid}").json()["parameters"]
    assert parameters["tex_guidance_interval"] == [0.2, 0.9]
    assert (parameters["seed"], parameters["ss_sampling_steps"]) == (5000, 100)
    assert parameters["pipeline_type"] == "512"
    assert parameters["shape_rescale_t"] == 2


def test_a_mesh_is_textured_and_not_written_over(say: Say) -> None:
    assert say("one.png", "--shape-only", "--output", "chair.glb")[0] == 0
    code, output, _ = say("two.png", "--mesh", "chair.glb", "--geo-rotation", 90)
    assert (code, output) == (0, "two.glb\n")
    code, _, error = say("two.png", "--mesh", "chair.glb", "--output", "chair.glb")
    assert (code, "chair.glb: would be written over" in error) == (2, True)


def test_a_thumbnail_of_another_type_is_of_its_glb(say: Say) -> None:
    assert say("one.png", "--type", "ply", "--thumbnail")[:2] == (0, "one.ply\none_thumbnail.png\n")
    assert say("one.png", "--type", "obj_zip", "--output", "x.zip")[:2] == (0, "x.zip\n")


def test_any_other_field_can_be_sent(say: Say) -> None:
    code, _, error = say("one.png", "--option", "ss_rescale_t=much")
    assert (code, "ss_rescale_t: not a number: 'much'" in error) == (1, True)


def test_warnings_of_the_server_are_passed_on(say: Say, server: Server) -> None:
    asked = json.loads(server.client.get("/openapi.json").text)
    assert asked
    from trellis2_server.client.replies import read_state

    state = read_state(
        {"uid": "a", "status": "completed", "warnings": ["\x1b[31mred\n"], "stage": "\x07bell"}
    )
    assert (state.warnings, state.stage) == (("[31mred",), "bell")
    assert say("one.png", "--quiet")[2] == ""


# ---- where it goes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "several", "expected"),
    [
        (None, False, "photo.glb"),
        ("model.glb", False, "model.glb"),
        ("model", False, "model.glb"),
        ("v1.2/model", False, "v1.2/model.glb"),
        ("out", True, "out/photo.glb"),
        ("out/", False, "out/photo.glb"),
        ("{odd", True, None),
        ("{name}", True, None),
        ("{}", True, None),
        ("{stem.__class__}", True, None),
        ("{index:q}", True, None),
        ("a/{stem}_{index:03d}_{seed}.glb", True, "a/photo_001_7.glb"),
        ("{uid}", True, "u.glb"),
        ("{hash}.bin", True, None),
    ],
)
def test_a_result_is_called_what_the_output_says(
    output: str | None,
    several: bool,  # noqa: FBT001 - a parameter of the test
    expected: str | None,
) -> None:
    pictures = [Path("photo.jpg"), Path("b.jpg")][: 1 + several]
    values = {"stem": "photo", "index": 1, "seed": 7, "uid": "u", "hash": "h"}
    assert set(values) == set(PLACEHOLDERS)
    if expected is None:
        with pytest.raises(UsageError):
            read_names(output, pictures, "glb", kinds=["model"])
    else:
        names = read_names(output, pictures, "glb", kinds=["model"])
        assert names.path("model", values) == Path(expected)


def test_results_never_take_each_others_place_or_a_pictures() -> None:
    both = [Path("a/photo.jpg"), Path("b/photo.jpg")]
    with pytest.raises(UsageError, match="index"):
        read_names(None, both, "glb", kinds=["model"])
    assert read_names("{stem}_{index}", both, "glb", kinds=["model"])
    assert read_names("{stem}_{uid}", both, "glb", kinds=["model"])
    with pytest.raises(UsageError, match="written over"):
        read_names("photo", [Path("photo_thumbnail.png")], "glb", kinds=["model", "thumbnail"])


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "model.glb"
    write_whole(file, b"first")
    write_whole(file, b"second")
    assert file.read_bytes() == b"second"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_whole(tmp_path / "folder", b"third")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "model.glb", "new"]
    if os.name == "posix":
        (tmp_path / "other").touch()
        assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(
            (tmp_path / "other").stat().st_mode
        )


# ---- exit codes ----------------------------------------------------------------------------------


def test_one_picture_that_fails_leaves_the_others(say: Say) -> None:
    Path("text.png").write_text("text")
    code, output, error = say("text.png", "one.png", "--json")
    assert code == 1
    by_name = {said["picture"]: said for said in map(json.loads, output.splitlines())}
    assert "error: text.png: " in error
    assert by_name["text.png"]["error"]["text"] in error
    assert by_name["text.png"]["files"] == {}
    assert by_name["one.png"]["files"] == {"model": "one.glb"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "PICTURE"),
        (("none.png",), "none.png: there is no such file"),
        (("one.png", "--mesh", "none.glb"), "none.glb: there is no such file"),
        (("one.png", "--jobs", "0"), "--jobs"),
        (("one.png", "--patience", "-1"), "--patience"),
        (("one.png", "--seed", "x"), "--seed"),
        (("one.png", "--shape-only", "--mesh", "two.png"), "--mesh"),
        (("one.png", "--with-shape", "--mesh", "two.png"), "--with-shape"),
        (("one.png", "--option", "x"), "NAME=VALUE"),
        (("one.png", "--server", "ftp://x"), "not the address"),
        (("one.png", "--api-key-file", "none"), "no key can be read"),
        (("one.png", "--output", "{x}"), "{x} is none of"),
    ],
)
def test_a_wrong_command_line_is_2(say: Say, arguments: tuple[str, ...], said: str) -> None:
    code, output, error = say(*arguments)
    assert (code, output) == (2, "")
    assert said in error


def test_a_server_that_is_not_there_is_3(say: Say, server: Server) -> None:
    server.stop()
    code, _, error = say("one.png")
    assert code == 3
    assert "nobody listens there" in error


def test_a_server_that_stays_busy_is_3(say: Say, server: Server) -> None:
    server.faults.next("/send", reply(503, b'{"text":"the queue is full"}', retry_after="9"))
    code, _, error = say("one.png", "--patience", "0")
    assert (code, error.splitlines()[-1]) == (3, "error: one.png: the queue is full")


def test_a_key_that_is_missing_or_wrong_is_4(say: Say, engine: GatedEngine) -> None:
    with serving(engine, settings(server={"api_keys": ["open-sesame"]})) as locked:
        locked.wait_until_loaded()
        where = ("--server", locked.url)
        assert say("one.png", *where)[0] == 4
        code, output, error = say("one.png", *where, "--api-key", "wrong-key")
        assert code == 4
        assert "an API key is needed" in error
        assert "wrong-key" not in output + error
        Path("key").write_text("open-sesame\n")
        assert say("one.png", *where, "--api-key-file", "key")[0] == 0
        assert say("two.png", *where, "--api-key", "open-sesame")[0] == 0


def test_a_result_that_cannot_be_written_is_5(say: Say) -> None:
    Path("file").touch()
    code, output, error = say("one.png", "--output", "file/model.glb")
    assert (code, output) == (5, "")
    assert re.search(r"error: one\.png: file.*: cannot be written: ", error)


def test_a_thumbnail_that_cannot_be_drawn_is_1_and_its_model_is_there(
    say: Say, server: Server
) -> None:
    server.faults.next("/jobs/", reply(200, b"glTF nonsense"))
    code, output, error = say("one.png", "--thumbnail")
    assert (code, output) == (1, "one.glb\n")
    assert "error: one.png: not a GLB" in error


def test_a_server_that_loads_is_waited_for(say: Say) -> None:
    engine = GatedEngine("load")
    with serving(engine) as server:
        until(lambda: server.client.get("/healthcheck").status_code == 503, "listening")

        async def open_gate(app: Any, scope: Any, receive: Any, send: Any) -> None:
            engine.open_all()
            await app(scope, receive, send)

        server.faults.next("/healthcheck", open_gate)
        code, output, error = say("one.png", "--wait-for-server", "--server", server.url)
    assert (code, output) == (0, "one.glb\n")
    assert "server: the server loads" in error


def test_a_server_whose_load_failed_is_3(say: Say) -> None:
    engine = GatedEngine()
    engine.failures["load"] = RuntimeError("broken")
    with serving(engine) as server:
        until(lambda: server.client.get("/healthcheck").json()["status"] == "error", "failed")
        code, _, error = say("one.png", "--wait-for-server", "--server", server.url)
    assert code == 3
    assert error.splitlines()[-1].startswith("error: ")


# ---- as a process --------------------------------------------------------------------------------


def started(server: Server, folder: Path, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trellis2_server.client", *SMALL, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRELLIS2_SERVER": server.url},
        text=True,
        **more,
    )


@pytest.mark.skipif(os.name != "posix", reason="an interrupt is sent another way on Windows")
def test_an_interrupt_cancels_the_jobs_and_is_130(
    server: Server, engine: GatedEngine, tmp_path: Path
) -> None:
    engine.gates["shape"].clear()
    for name, shade in (("one.png", 1), ("two.png", 2)):
        (tmp_path / name).write_bytes(picture(shade))
    running = started(server, tmp_path, "one.png", "two.png", stderr=subprocess.PIPE)
    until(lambda: len(server.faults.paths("/events/")) == 2, "followed")
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 130
    assert error.endswith("interrupted; what was in progress is cancelled\n")
    assert "Traceback" not in error
    engine.open_all()
    jobs = server.client.get("/jobs").json()["jobs"]
    assert [job["error"] for job in jobs] == ["cancelled", "cancelled"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no pty")
def test_a_terminal_shows_bars_and_leaves_one_line_for_each_file(
    server: Server, tmp_path: Path
) -> None:
    import fcntl
    import pty
    import struct
    import termios

    for name, shade in (("one.png", 1), ("two.png", 2)):
        (tmp_path / name).write_bytes(picture(shade))
    server.faults.next("/events/", cut(0))
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    ends = {"stdin": inner, "stdout": inner, "stderr": inner}
    running = started(server, tmp_path, "one.png", "two.png", **ends)
    os.close(inner)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux tells of the other end's end
        while piece := os.read(outer, 65_536):
            shown += piece
    os.close(outer)
    assert running.wait(PATIENCE_S) == 0
    text = shown.decode()
    assert "█" in text
    assert "% |" in text
    # Where the second bar is there already, the cursor comes back from it first.
    assert re.search(r"\r(\x1b\[A)?one\.glb  0\.\d MB, seed 42, gated, \d+\.\d s\r\n", text)
    assert "the connection broke; asking again" in text


def test_a_reader_that_leaves_is_no_stack_trace(server: Server, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(picture(1))
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = started(server, tmp_path, "one.png", "--quiet", **pipe)
    with running:
        assert running.stdout
        running.stdout.close()
        assert running.stderr
        assert running.stderr.read() == ""
        assert running.wait(PATIENCE_S) == 5


def test_help_tells_every_exit_code_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    said = capsys.readouterr().out
    codes = (0, cli.SOME_FAILED, cli.USAGE, cli.UNREACHABLE, cli.UNAUTHORIZED)
    for code in (*codes, cli.NOT_WRITTEN, cli.INTERRUPTED):
        assert re.search(rf"^  {code}  ", said, re.MULTILINE)
    for option in OPTIONS:
        assert f"--{option.name.replace('_', '-')}" in said


# ---- bars ----------------------------------------------------------------------------------------


def test_a_name_with_braces_and_a_long_one_have_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    shown = display.choose_display(quiet=False)
    row = shown.row("{0}" + "x" * 40 + ".png")
    row.show(Progress(0.5, "shape", eta_s=12.3))
    row.show(Progress(0.5, "wrong", is_trouble=True))
    row.show(Progress(0.5, "wrong", is_trouble=True))
    row.end()
    drawn = screen.getvalue()
    assert drawn.count(": wrong") == 1
    assert "…" in drawn
    assert " 50% |" in drawn
