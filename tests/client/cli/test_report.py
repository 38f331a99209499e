"""What is printed about a job."""

from __future__ import annotations

import json
import sys
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


RESULT = Result(
    "a", "glb", b"shape", b"glTF", image_hash="h", seed=7, engine="preview", background="alpha",
    resolution=512, warnings=("too dark",), details={"back": "fill"}, timings={"shape": 1.5},
)  # fmt: skip


def printed(
    outcome: Outcome, capsys: pytest.CaptureFixture[str], *, json: bool = False
) -> tuple[str, str]:
    names = read_output_names(None, [Path("one.png")], "glb", kinds=["model"])
    arguments = OutputArguments(
        names, ["model"], "glb", has_texture=True, json=json, is_quiet=False
    )
    print_outcome(outcome, arguments, choose_display(is_quiet=True))
    return capsys.readouterr()


def test_json_has_every_fact_of_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(Path("one.png"), {"model": Path("one.glb")}, RESULT, seconds=1.23456)
    output, _ = printed(outcome, capsys, json=True)
    assert json.loads(output) == {
        "picture": "one.png", "files": {"model": "one.glb"}, "seconds": 1.235, "uid": "a",
        "image_hash": "h", "seed": 7, "engine": "preview", "background": "alpha",
        "resolution": 512, "warnings": ["too dark"], "details": {"back": "fill"},
        "timings": {"shape": 1.5},
    }  # fmt: skip
    bare = Outcome(Path("ä.png"), result=Result("a", "glb", None, b"x"))
    output, _ = printed(bare, capsys, json=True)
    assert "ä.png" in output
    assert json.loads(output)["engine"] is None


@pytest.mark.parametrize(
    ("result", "done"),
    [
        (Result("a", "glb", None, b"x", seed=0), ", seed 0"),
        (Result("a", "glb", None, b"x", engine="e"), ", e"),
        (Result("a", "glb", None, b"x"), ""),
    ],
)
def test_what_is_not_known_of_a_result_is_not_printed(
    result: Result, done: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome(Path("one.png"), result=result, seconds=2.0)
    assert printed(outcome, capsys) == ("", f"one.png: done in 2.0 s{done}\n")


def test_an_error_of_a_file_names_it_and_a_failed_job_is_not_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = PermissionError(13, "Permission denied", "out/one.glb")
    outcome = Outcome(Path("one.png"), result=RESULT, error=error)
    message = "out/one.glb: cannot be written: Permission denied"
    output, errors = printed(outcome, capsys)
    assert errors == f"error: one.png: {message}\nwarning: one.png: too dark\n"
    record = json.loads(printed(outcome, capsys, json=True)[0])
    assert record["error"] == {"type": "PermissionError", "text": message}
    assert output == ""


@pytest.mark.parametrize(
    ("is_output", "is_error", "is_said"),
    [(True, True, False), (True, False, True), (False, True, True), (False, False, True)],
)
def test_a_terminal_shows_one_line_for_each_file(  # noqa: PLR0913, PLR0917 - fixtures, parameters
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_output: bool,  # noqa: FBT001 - a parameter of the test, like the next ones
    is_error: bool,  # noqa: FBT001
    is_said: bool,  # noqa: FBT001
) -> None:
    for stream, is_terminal in ((sys.stdout, is_output), (sys.stderr, is_error)):
        monkeypatch.setattr(stream, "isatty", lambda is_terminal=is_terminal: is_terminal)
    model, shape = tmp_path / "one.glb", tmp_path / "one_shape.glb"
    model.write_bytes(bytes(1_260_000))
    shape.write_bytes(b"x")
    outcome = Outcome(Path("one.png"), {"shape": shape, "model": model}, RESULT, seconds=1.25)
    output, error = printed(outcome, capsys)
    assert ("done in" in error) is is_said
    if is_output:
        assert output == f"{shape}  0.0 MB\n{model}  1.3 MB, seed 7, preview, 1.2 s\n"
    else:
        assert output == f"{shape}\n{model}\n"
