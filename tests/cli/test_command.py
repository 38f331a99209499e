from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.background_packages import (
    MODEL,
    NAME,
    model_path,
    needs_pooch,
    stand_in_packages,
)
from tests.support.server_command import ENTRY, ROOT, configured
from trellis2_server import __version__, logs
from trellis2_server.cli import main
from trellis2_server.cli.command import DEFAULT_CONFIG

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def untouched_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "configure", lambda _: None)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments], config_folder=ROOT)


def test_a_check_reports_what_would_be_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--check", "--host", "::1", "--port", 9) == 0
    said = capsys.readouterr().out
    assert re.search(r"engine +preview \(configured: auto\)", said)
    assert "[::1]:9, 0 API keys" in said
    assert __version__ in said
    assert "warning" in said
    assert re.search(r"other hosts +none are called", said)


def test_a_check_says_what_has_other_hosts_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRELLIS2_SERVER_WEBHOOK_SECRET", "a-secret-of-the-environment")
    file = configured(
        tmp_path,
        server={"image_hosts": ["a.example"], "webhook_hosts": ["b.example"]},
        text_to_image={"url": "http://localhost/v1"},
    )
    assert run("--check", "--config", file) == 0
    said = capsys.readouterr().out
    assert re.search(r"other hosts +image_url, webhook, text", said)
    assert "a-secret" not in said
    monkeypatch.delenv("TRELLIS2_SERVER_WEBHOOK_SECRET")
    assert run("--check", "--config", file) == 2
    assert "server.webhook_hosts: needs server.webhook_secret" in capsys.readouterr().err


@pytest.mark.costly
def test_a_check_warns_about_open_access_and_readable_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys"
    file.write_text("a-key")
    file.chmod(0o644)
    locked = configured(tmp_path, server={"api_keys_file": str(file)})
    said: list[str] = []
    for asked in (("--host", "0.0.0.0"), ("--host", "127.0.0.1"), ("--config", locked)):  # noqa: S104
        assert run("--check", *asked) == 0
        said.append(capsys.readouterr().out)
    assert ["anyone who can reach 0.0.0.0:8082" in each for each in said] == [True, False, False]
    if os.name == "posix":
        assert [f"can read the keys in {file}" in each for each in said] == [False, False, True]
    assert "1 API keys" in said[2]


@pytest.mark.costly
@needs_pooch
def test_a_check_says_whether_the_background_model_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    with stand_in_packages(tmp_path, monkeypatch) as origin:
        file = model_path(tmp_path)
        file.parent.mkdir(parents=True)
        for content, more in (
            (None, {"offline": True}),
            (MODEL[:9], {}),
            (MODEL[:9], {"background_prefetch": False}),
            (MODEL, {}),
        ):
            if content is not None:
                file.write_bytes(content)
            asked = {"background_model": NAME, **more}
            assert run("--check", "--config", configured(tmp_path, model=asked)) == 0
            said.append(capsys.readouterr().out)
        assert origin.downloads == 0
    for output, what in zip(
        said,
        (
            "whose file is missing; model.offline forbids fetching it",
            "whose file is damaged; the server fetches it when it starts",
            "whose file is damaged; the first photo fetches it",
            "which is on this machine",
        ),
        strict=True,
    ):
        assert re.search(rf"background +auto, model {NAME}, {what}", output)


@pytest.mark.costly
@needs_pooch
def test_a_prefetch_shows_its_progress_and_ends_with_whether_the_model_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prefetch(**model: Any) -> tuple[int, str, str]:
        config = configured(tmp_path, model={"background_model": NAME, **model})
        code = run("--prefetch", "--config", config)
        said = capsys.readouterr()
        return code, said.out, said.err

    there = f"the background model {NAME} is on this machine\n"
    with stand_in_packages(tmp_path, monkeypatch) as origin:
        code, out, error = prefetch(offline=True)
        assert (code, out) == (1, "")
        assert f"error: the background model {NAME} is not on this machine, which is off" in error
        origin.cut_at = 1000
        code, _, error = prefetch()
        assert code == 1
        assert error.endswith("could not be downloaded (cut short)\n")
        origin.cut_at = None
        code, out, error = prefetch()
        assert (code, error) == (0, "")
        assert out.startswith(f"{NAME}.onnx  0.0 of 0.3 MB\n")
        assert out.endswith(f"{NAME}.onnx  0.3 of 0.3 MB\n{there}")
        assert prefetch(offline=True) == (0, there, "")
        downloads = origin.downloads
        needless = "model.background is grabcut, which needs no model of rembg\n"
        assert prefetch(background="grabcut") == (0, needless, "")
        assert prefetch(background="grabcut", background_prefetch=True) == (0, there, "")
        assert origin.downloads == downloads


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_the_entry_file_answers_without_loading_anything(argument: str) -> None:
    done = subprocess.run(
        [sys.executable, ENTRY, argument], capture_output=True, text=True, check=True
    )
    assert done.stdout


# ---- as an installed command ---------------------------------------------------------------


@pytest.mark.costly
def test_the_installed_command_takes_the_file_of_the_current_folder_or_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.json").write_text('{"model": {"engine": "preview"}, "server": {"port": 9}}')
    monkeypatch.setattr(sys, "argv", ["trellis2-server", "--check", "--config", "other.json"])
    assert main() == 0
    assert re.search(r"configuration +other.json\n", capsys.readouterr().out)
    assert main(["--check"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"configuration +built-in defaults\n", said)
    assert "0.0.0.0:8082, [::]:8082, 0 API keys" in said
    (tmp_path / "other.json").rename(DEFAULT_CONFIG)
    assert main(["--check"]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"configuration +{DEFAULT_CONFIG}\n", said)
    assert "0.0.0.0:9, [::]:9," in said
    assert main(["--check", "--host", "127.0.0.1,::1"]) == 0
    assert "127.0.0.1:9, [::1]:9," in capsys.readouterr().out


def test_the_help_names_the_program_and_where_its_configuration_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, program, place in (
        (None, "trellis2-server", "current folder"),
        (tmp_path, "api_server_trellis2.py", "beside the server"),
    ):
        with pytest.raises(SystemExit):
            main(["--help"], config_folder=folder)
        said = " ".join(capsys.readouterr().out.split())
        assert said.startswith(f"usage: {program} ")
        assert place in said


@pytest.mark.parametrize("has_file", [False, True])
def test_an_error_names_the_argument_that_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    has_file: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    if has_file:
        (tmp_path / DEFAULT_CONFIG).write_text('{"server": {"port": 70000}}')
        assert main(["--host", "::1"]) == 2
        assert capsys.readouterr().err.startswith(f"error: {DEFAULT_CONFIG}: server.port: input sh")
    for value, what in (("65536", "less than or equal to 65535"), ("-1", "greater than or equal")):
        assert main(["--port", value]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: --port: input should be {what}")
        assert said.endswith(f", not {value}\n")
    assert main(["--port", "9", "--host", "::1,", "--check"]) == 2
    assert capsys.readouterr().err.startswith("error: --host: ")
