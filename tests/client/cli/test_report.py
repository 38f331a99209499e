"""What is printed about a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from trellis2_server.client import RefusedError, Result
from trellis2_server.client.cli.arguments import OutputArguments
from trellis2_server.client.cli.display import choose_display
from trellis2_server.client.cli.job import Outcome
from trellis2_server.client.cli.output_names import read_output_names
from trellis2_server.client.cli.report import print_outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Server

    Run = Callable[..., tuple[int, str, str]]


def test_json_describes_the_job(run: Run, server: Server) -> None:
    code, output, _ = run("one.png", "--json", "--with-shape", "--thumbnail", "--output", "out/")
    assert code == 0
    (record,) = [json.loads(line) for line in output.splitlines()]
    files = {
        "model": "out/one.glb",
        "shape": "out/one_shape.glb",
        "thumbnail": "out/one_thumbnail.png",
    }
    assert record["files"] == {kind: str(Path(path)) for kind, path in files.items()}
    assert (record["seed"], record["engine"], record["background"]) == (42, "gated", "alpha")
    assert server.status(record["image_hash"])["uid"] == record["uid"]
    assert Path("out/one_shape.glb").read_bytes() != Path("out/one.glb").read_bytes()
    with Image.open("out/one_thumbnail.png") as shown:
        assert shown.size == (512, 512)


def test_quiet_prints_errors_only(run: Run) -> None:
    assert run("one.png", "--quiet")[2] == ""


@pytest.mark.parametrize("is_quiet", [False, True])
def test_warnings_of_the_server_are_printed_unless_quiet(
    is_quiet: bool,  # noqa: FBT001 - a parameter of the test
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = Result("a", "glb", None, b"glTF", seed=7, engine="preview", warnings=("too dark",))
    outcome = Outcome(Path("one.png"), {"model": Path("one.glb")}, result, seconds=1.25)
    names = read_output_names(None, [Path("one.png")], "glb", kinds=["model"])
    arguments = OutputArguments(
        names, ["model"], "glb", has_texture=True, json=False, is_quiet=is_quiet
    )
    print_outcome(outcome, arguments, choose_display(is_quiet=is_quiet))
    output, error = capsys.readouterr()
    assert output == "one.glb\n"
    done = "warning: one.png: too dark\none.png: done in 1.2 s, seed 7, preview\n"
    assert error == ("" if is_quiet else done)


def test_json_describes_an_error_with_its_status_and_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused = RefusedError("too large", status=413, code=4)
    outcome = Outcome(Path("one.png"), error=refused)
    names = read_output_names(None, [Path("one.png")], "glb", kinds=["model"])
    arguments = OutputArguments(names, ["model"], "glb", has_texture=True, json=True, is_quiet=True)
    print_outcome(outcome, arguments, choose_display(is_quiet=True))
    output, error = capsys.readouterr()
    assert json.loads(output)["error"] == {
        "type": "RefusedError",
        "text": "too large",
        "status": 413,
        "code": 4,
    }
    assert error == "error: one.png: too large\n"
