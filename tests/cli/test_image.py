from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.server import picture, until
from tests.support.server_command import ENTRY, ROOT, configured
from trellis2_server import logs
from trellis2_server.cli import main
from trellis2_server.cli.image import Bar

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def untouched_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "configure", lambda _: None)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments], config_folder=ROOT)


def test_one_picture_becomes_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photo.png").write_bytes(picture())
    output = tmp_path / "new" / "out"
    asked = ("--config", configured(tmp_path), "--image", tmp_path / "photo.png")
    assert run(*asked, "--output", output) == 0
    files = sorted(output.iterdir())
    assert [file.name for file in files] == ["photo_shape.glb", "photo_textured.glb"]
    assert all(file.read_bytes()[:4] == b"glTF" for file in files)
    said = capsys.readouterr().out
    assert str(files[0]) in said
    assert "engine preview, background alpha, seed 42" in said


def test_an_error_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(tmp_path)
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "photo.png").write_bytes(picture())
    (tmp_path / "file").touch()
    (tmp_path / "out" / "photo_shape.glb").mkdir(parents=True)
    image = ("--config", config, "--image")
    for asked, said in (
        (("--config", tmp_path / "none.json"), "none.json: cannot be read"),
        (("--port", "99999"), "--port: input should be less than or equal to 65535"),
        ((*image, tmp_path / "none.png"), "none.png: No such file"),
        ((*image, tmp_path / "text.png"), "image: not a PNG"),
        ((*image, tmp_path / "photo.png", "--output", tmp_path / "file"), "file: File exists"),
        ((*image, tmp_path / "photo.png", "--output", tmp_path / "out"), "shape.glb: Is a dir"),
    ):
        assert run(*asked) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ")
        assert said in error
        assert "\n" not in error


def test_an_error_leaves_no_folder_that_was_made_for_the_models(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "old").mkdir()
    asked = ("--config", configured(tmp_path), "--image", tmp_path / "text.png", "--output")
    for output in ("new/a/b", "old"):
        assert run(*asked, tmp_path / output) == 2
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "old").is_dir()


@pytest.mark.skipif(os.name != "posix", reason="Windows sends an interrupt differently")
def test_an_interrupt_exits_with_130_and_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(picture())
    output = tmp_path / "new" / "out"
    asked = ["--config", configured(tmp_path), "--image", tmp_path / "photo.png"]
    running = subprocess.Popen(
        [sys.executable, ENTRY, *asked, "--output", output], stderr=subprocess.PIPE, text=True
    )
    until(output.exists, "the folder")
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 130
    assert error.splitlines()[-1] == "interrupted"
    assert "Traceback" not in error
    assert not output.parent.exists()


def test_a_bar_is_drawn_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for is_terminal, drawn in ((False, ""), (True, "\r[###############...............] bake")):
        monkeypatch.setattr(sys.stderr, "isatty", lambda is_terminal=is_terminal: is_terminal)
        bar = Bar()
        bar.report("bake", 1, 2)
        shown = capsys.readouterr().err
        assert shown.rstrip() == drawn
        bar.end()
        assert capsys.readouterr().err == (f"\r{' ' * 54}\r" if is_terminal else "")
    assert len(shown) <= len("\r" + " " * 54)


@pytest.mark.parametrize(("step", "steps", "done"), [(0, 0, 0), (1, 7, 4), (6, 7, 25), (7, 7, 30)])
def test_a_bar_has_thirty_parts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: int,
    steps: int,
    done: int,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    Bar().report("a stage with a name that is long", step, steps)
    bar = "#" * done + "." * (30 - done)
    assert capsys.readouterr().err == f"\r[{bar}] a stage with a name "


def test_the_bar_of_a_conversion_begins_empty_and_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photo.png").write_bytes(picture())
    asked = ("--config", configured(tmp_path), "--image", tmp_path / "photo.png")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(*asked, "--output", tmp_path) == 0
    drawn = capsys.readouterr().err.split("\r")
    assert f"[{'.' * 30}] {'cut out':20}" in drawn
    assert {len(each) for each in drawn if each.strip()} == {53}
    assert drawn[-2:] == [" " * 54, ""]
