"""Arguments of the command line."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trellis2_server.client import UsageError, cli
from trellis2_server.client.cli.arguments import read_command
from trellis2_server.client.cli.exit_codes import ExitCode
from trellis2_server.client.options import OPTIONS
from trellis2_server.purposes import PURPOSES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Server
    from trellis2_server.client.options import Option

    Run = Callable[..., tuple[int, str, str]]


def test_every_option_reaches_the_server(run: Run, server: Server) -> None:
    values = {"boolean": [], "interval": ["0.2", "0.9"], "integer": ["5000"], "number": ["2"]}
    arguments: list[str] = []
    for option in OPTIONS:
        if option.name in {
            "compress",
            "geo_rotation",
            "lods",
            "normal_map",
            "occlusion",
            "resolution",
            "size_mm",
        }:
            continue  # they require other results, or another file type
        value = [str(option.choices[0])] if option.choices else values[option.kind]
        if option.bounds:
            most = min(option.bounds[1], 5000 if option.kind == "integer" else 2)
            value = [str(int(most))]
        arguments += [f"--{option.name.replace('_', '-')}", *value]
    code, output, _ = run("one.png", "--json", "--shape-only", *arguments)
    assert code == 0
    uid = json.loads(output)["uid"]
    parameters = server.client.get(f"/jobs/{uid}").json()["parameters"]
    assert parameters["tex_guidance_interval"] == [0.2, 0.9]
    assert (parameters["seed"], parameters["ss_sampling_steps"]) == (5000, 100)
    assert parameters["pipeline_type"] == "512"
    assert parameters["shape_rescale_t"] == 2


def test_any_other_field_can_be_sent(run: Run) -> None:
    code, _, error = run("one.png", "--option", "ss_rescale_t=much")
    assert (code, "ss_rescale_t: not a number: 'much'" in error) == (1, True)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "PICTURE"),
        (("none.png",), "none.png: not a readable file"),
        (("one.png", "--mesh", "none.glb"), "none.glb: not a readable file"),
        (("one.png", "--jobs", "0"), "--jobs"),
        (("one.png", "--patience", "-1"), "--patience"),
        (("one.png", "--seed", "x"), "--seed"),
        (("one.png", "--seed", "5000000000"), "--seed: must be a whole number from -1 to 4,294"),
        (("one.png", "--output", "one.stl", "--type", "ply"), "one.stl: does not match --type ply"),
        (("one.png", "--output", "one.fbx"), "one.fbx: .fbx is not the suffix of a file type"),
        (("one.png", "--shape-only", "--mesh", "two.png"), "--mesh"),
        (("one.png", "--with-shape", "--mesh", "two.png"), "--with-shape"),
        (("one.png", "--option", "x"), "NAME=VALUE"),
        (("one.png", "--server", "ftp://x"), "not the address"),
        (("one.png", "--api-key-file", "none"), "cannot read an API key"),
        (("one.png", "--output", "{x}"), "{x} is not one of"),
    ],
)
def test_invalid_arguments_exit_with_2(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, output, error = run(*arguments)
    assert (code, output) == (2, "")
    assert message in error


def test_the_help_lists_every_exit_code_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    for code in ExitCode:
        assert re.search(rf"^  {code:d}  ", text, re.MULTILINE)
    for option in OPTIONS:
        assert f"--{option.name.replace('_', '-')}" in text
    words = " ".join(text.split())
    for low, high in (option.bounds for option in OPTIONS if option.bounds):
        assert f", {low:,} … {high:,}" in words


@pytest.mark.parametrize("called", ["/usr/bin/trellis2", "trellis2"])
def test_the_usage_shows_the_name_of_the_console_command(
    called: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [called, "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main()
    assert capsys.readouterr().out.startswith("usage: trellis2 [options] PICTURE")


def test_the_usage_shows_the_module_if_it_is_run_as_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["anything", "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module("trellis2_server.client", run_name="__main__")
    expected = "usage: python -m trellis2_server.client [options] PICTURE"
    assert capsys.readouterr().out.startswith(expected)


# ---- by themselves -----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("one.png", "two.png", "mesh.ply"):
        (tmp_path / name).touch()
    (tmp_path / "key").write_text(" secret\n")
    return tmp_path


def test_without_arguments_everything_is_the_servers_default(folder: Path) -> None:
    command = read_command(["one.png"])
    assert command.pictures == [Path("one.png")]
    assert command.request == {
        "mesh": None, "texture": True, "shape": False, "type": "glb", "extra": {},
    }  # fmt: skip
    server, output = command.server, command.output
    assert (server.address, server.api_key, server.patience_s) == (None, None, 300.0)
    assert (server.is_awaited, command.jobs) == (False, 4)
    assert (output.kinds, output.type) == (["model"], "glb")
    assert (output.has_texture, output.json, output.is_quiet) == (True, False, False)
    del folder


@pytest.mark.usefixtures("folder")
def test_a_purpose_sets_the_options_that_suit_it() -> None:
    for name, purpose in PURPOSES.items():
        command = read_command(["one.png", "--for", name])
        sent = {key: command.request[key] for key in purpose.fields}
        assert sent == purpose.fields
        assert command.output.type == purpose.fields["type"]


@pytest.mark.usefixtures("folder")
def test_options_beside_a_purpose_win() -> None:
    command = read_command(["one.png", "--for", "print", "--size-mm", "30"])
    assert (command.request["size_mm"], command.request["type"]) == (30, "3mf")
    command = read_command(["one.png", "--for", "print", "--type", "glb"])
    assert command.request["type"] == command.output.type == "glb"
    assert "size_mm" not in command.request
    assert "up_axis" not in command.request
    assert command.request["texture_size"] == 2048
    mesh = read_command(["one.png", "--for", "print", "--mesh", "mesh.ply"])
    assert "up_axis" not in mesh.request  # it would be that of the mesh
    assert mesh.request["size_mm"] == 100


def test_the_files_of_a_purpose_have_the_ending_of_their_type(run: Run, folder: Path) -> None:
    code, output, error = run("one.png", "--for", "print", "--shape-only", "--size-mm", "20")
    assert (code, error) == (0, error)
    (written,) = output.split()
    assert written.endswith(".3mf")
    assert (folder / written).read_bytes()[:2] == b"PK"


def test_each_argument_is_passed_on(folder: Path) -> None:
    command = read_command(
        ["one.png", "two.png", "--server", "host", "--api-key-file", "key", "--wait-for-server",
         "--patience", "0", "--jobs", "1", "--with-shape", "--thumbnail", "--json", "-q",
         "--type", "ply", "--seed", "7", "--no-remesh", "--tex-guidance-interval", "0.1", "0.9",
         "--option", "a=1", "--option", "b=x=y", "--option", "c="]
    )  # fmt: skip
    assert command.request == {
        "mesh": None, "texture": True, "shape": True, "type": "ply",
        "extra": {"a": 1, "b": "x=y", "c": ""}, "seed": 7, "remesh": False,
        "tex_guidance_interval": [0.1, 0.9],
    }  # fmt: skip
    server, output = command.server, command.output
    assert (server.address, server.api_key, server.patience_s) == ("host", "secret", 0.0)
    assert (server.is_awaited, command.jobs, output.type) == (True, 1, "ply")
    assert output.kinds == ["model", "shape", "thumbnail"]
    assert (output.has_texture, output.json, output.is_quiet) == (True, True, True)
    bare = read_command(["one.png", "--shape-only", "--api-key", "", "--api-key-file", "key"])
    assert (bare.request["texture"], bare.output.has_texture) == (False, False)
    assert bare.server.api_key == ""
    textured = read_command(["one.png", "--mesh", "mesh.ply"])
    assert textured.request["mesh"] == Path("mesh.ply")
    del folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["--option", "=1"], ["--jobs", "0"], ["--patience", "-0.1"], ["--mesh", "."],
        ["--mesh", "mesh.ply", "--shape-only"], ["--mesh", "mesh.ply", "--with-shape"],
        ["--mesh", "mesh.ply", "--output", "mesh.ply"], ["--patience", "nan"],
        ["--option", "type=stl"], ["--output", "one.fbx"], ["--output", "a.stl", "--type", "ply"],
        ["two.png", "--output", "all.stl"], ["--tex-guidance-interval", "0.9", "0.2"],
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_used_are_refused(folder: Path, arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        read_command(["one.png", *arguments])
    with pytest.raises(UsageError):
        read_command(["."])
    del folder


@pytest.mark.parametrize(
    "arguments", [[], ["one.png", "--type", "fbx"], ["one.png", "--texture-size", "7"],
                  ["one.png", "--geo-rotation", "x"], ["one.png", "--geo-rotation", "inf"],
                  ["one.png", "--depth", "deep"], ["one.png", "--seed", "1.5"],
                  ["one.png", "--tex-guidance-interval", "0", "1.1"], ["one.png", "--jobs", "x"]]
)  # fmt: skip
def test_arguments_that_argparse_knows_to_be_wrong_exit(folder: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        read_command(arguments)
    del folder


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "option",
    [each for each in OPTIONS if each.bounds and each.kind != "integers"],
    ids=lambda each: each.name,
)
def test_a_number_out_of_the_range_of_its_field_is_refused(
    option: Option, capsys: pytest.CaptureFixture[str]
) -> None:
    assert option.bounds
    flag = f"--{option.name.replace('_', '-')}"
    for at, beyond in zip(option.bounds, (-1, 1), strict=True):
        assert read_command(["one.png", flag, str(at)]).request[option.name] == at
        step = beyond if option.kind == "integer" else beyond * 0.001
        for value in (str(at + step), "nan", "9" * 5000):
            with pytest.raises(SystemExit, match=r"^2$"):
                read_command(["one.png", f"{flag}={value}"])
            low, high = option.bounds
            error = capsys.readouterr().err
            assert f"argument {flag}: must be a " in error
            assert f"number from {low:,} to {high:,}" in error


@pytest.mark.usefixtures("folder")
def test_levels_of_detail_are_checked() -> None:
    for text, expected in (("2000,100", [2000, 100]), ("9000 800,700", [9000, 800, 700])):
        assert read_command(["one.png", "--lods", text]).request["lods"] == expected
    nine = ",".join(str(1000 - each) for each in range(9))
    assert len(read_command(["one.png", "--lods", nine[5:]]).request["lods"]) == 8
    for text in (nine, "2000", "2000,99", "16777217,100", "200,200", "100,200", "2000,x", ""):
        with pytest.raises(SystemExit, match=r"^2$"):
            read_command(["one.png", "--lods", text])


def test_a_file_is_of_the_type_that_its_suffix_says(run: Run) -> None:
    code, output, _ = run("one.png", "--shape-only", "--output", "new.STL")
    assert (code, output) == (0, "new.STL\n")
    content = Path("new.STL").read_bytes()
    assert len(content) == 84 + 50 * int.from_bytes(content[80:84], "little") > 84


@pytest.mark.usefixtures("folder")
def test_the_suffix_of_the_output_wins_over_the_type_of_a_purpose() -> None:
    command = read_command(["one.png", "--for", "print", "--output", "one.stl"])
    assert command.request["type"] == command.output.type == "stl"
    assert "size_mm" not in command.request
