"""The command line of the MCP server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trellis2_server import __version__
from trellis2_server.mcp.command import _access, _parser, main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--port", "0"], "must be 1 to 65535"),
        (["--port", "65536"], "must be 1 to 65535"),
        (["--output", "/no/such/folder"], "is not a folder"),
        (["--files", "/no/such/folder"], "is not a folder"),
        (["--api-key-file", "/no/such/file"], "cannot be read"),
        (["--transport", "smoke"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert problem in capsys.readouterr().err


def test_an_empty_key_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_text("\n")
    with pytest.raises(SystemExit):
        main(["--api-key-file", str(tmp_path / "key")])
    assert "holds no key" in capsys.readouterr().err


def test_the_command_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert (left.value.code, capsys.readouterr().out) == (0, f"{__version__}\n")


def test_the_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for option in ("--server", "--api-key-file", "--transport", "--output", "--files", "TRELLIS2"):
        assert option in text


def test_without_the_package_the_command_names_what_to_install() -> None:
    code = (
        "import sys; sys.modules['mcp'] = None; from trellis2_server.mcp.command import main; "
        "sys.exit(main([]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "error: the package mcp is not installed: pip install 'mcp>=1.10,<2'\n"


def test_a_wrong_address_is_refused_at_the_start() -> None:
    pytest.importorskip("mcp", reason="mcp is not installed: pip install 'mcp>=1.10,<2'")
    run = subprocess.run(
        [sys.executable, "-m", "trellis2_server.mcp", "--server", "ftp://a"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (2, "error: not the address of a server: ftp://a\n")


def test_the_tools_import_nothing_of_the_server() -> None:
    pytest.importorskip("mcp", reason="mcp is not installed: pip install 'mcp>=1.10,<2'")
    code = (
        "import sys, trellis2_server.mcp.tools, trellis2_server.mcp.remote_files; "
        "own = {n.split('.')[1] for n in sys.modules if n.startswith('trellis2_server.')}; "
        "print(*sorted(own))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    leaves = ["public_addresses", "purposes", "request_fields"]
    assert run.stdout.split() == ["client", "mcp", *leaves]


class StandIn:
    """Takes the place of an MCP server, which would not end."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.transports: list[str] = []

    def make(self, *arguments: Any, **named: Any) -> StandIn:
        self.made.append((*arguments[:2], named, arguments[2]))
        return self

    def run(self, transport: str) -> None:
        self.transports.append(transport)


def test_the_arguments_are_those_of_the_server_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = pytest.importorskip("trellis2_server.mcp.tools", reason="needs mcp")
    server = StandIn()
    monkeypatch.setattr(tools, "make_server", server.make)
    (tmp_path / "key").write_text("\n  secret \nother\n")
    assert main([]) == 0
    arguments = ["--transport", "http", "--host", "::1", "--port", "65535", "--server", "http://a"]
    assert main([*arguments, "--api-key-file", str(tmp_path / "key")]) == 0
    assert server.transports == ["stdio", "streamable-http"]
    assert [made[:3] for made in server.made] == [
        (None, None, {"host": "127.0.0.1", "port": 8083}),
        ("http://a", "secret", {"host": "::1", "port": 65_535}),
    ]


@pytest.mark.parametrize(
    ("arguments", "reads_all", "has_folder", "has_output"),
    [
        ([], True, False, True),
        (["--transport", "http"], False, False, False),
        (["--files", "."], False, True, True),
        (["--transport", "http", "--files", ".", "--output", "."], False, True, True),
    ],
)
def test_over_http_only_named_folders_are_used(
    arguments: list[str], *, reads_all: bool, has_folder: bool, has_output: bool
) -> None:
    access = _access(_parser().parse_args(arguments))
    assert access.reads_all is reads_all
    assert (access.folder is not None) == has_folder
    assert (access.output is not None) == has_output
