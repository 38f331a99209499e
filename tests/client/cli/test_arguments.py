"""Arguments of the command line."""

from __future__ import annotations

import json
import re
import runpy
import sys
from typing import TYPE_CHECKING

import pytest

from trellis2_server.client import cli
from trellis2_server.client.cli.exit_codes import ExitCode
from trellis2_server.client.options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Server

    Run = Callable[..., tuple[int, str, str]]


def test_every_option_reaches_the_server(run: Run, server: Server) -> None:
    values = {"boolean": [], "interval": ["0.2", "0.9"], "integer": ["5000"], "number": ["2"]}
    arguments: list[str] = []
    for option in OPTIONS:
        if option.name in {"compress", "geo_rotation", "resolution"}:
            continue  # they require other results
        value = [str(option.choices[0])] if option.choices else values[option.kind]
        if option.bounds and option.kind == "integer":
            value = [str(int(min(option.bounds[1], 5000)))]
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "PICTURE"),
        (("none.png",), "none.png: not a readable file"),
        (("one.png", "--mesh", "none.glb"), "none.glb: not a readable file"),
        (("one.png", "--jobs", "0"), "--jobs"),
        (("one.png", "--patience", "-1"), "--patience"),
        (("one.png", "--seed", "x"), "--seed"),
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
