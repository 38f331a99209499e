"""The command line: standard output, and the client as a process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.faults import cut
from tests.support.server import Server, picture, until
from trellis2_server.client import UsageError, cli
from trellis2_server.client.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[3]
SMALL = ("--texture-size", "256", "--decimation-target", "2000")


def test_standard_output_has_paths_only(run: Run) -> None:
    code, output, progress = run("one.png", "two.png", "--jobs", 1, "--seed", 3)
    assert code == 0
    assert output == "one.glb\ntwo.glb\n"
    assert Path("one.glb").read_bytes()[:4] == b"glTF"
    assert sorted(path.name for path in Path().glob("*.glb")) == ["one.glb", "two.glb"]
    steps_of_one, _, _ = progress.partition("two.png")
    assert re.fullmatch(
        r"(one\.png: (waiting.*|shape|texture|the untextured.*)\n)*"
        r"one\.png: download\none\.png: done in \d+\.\d s, seed 3, gated\n",
        steps_of_one,
    )
    assert not re.search(r"[^\x20-\x7e\n]", progress)
    assert len(progress.splitlines()) < 14


def start(server: Server, folder: Path, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trellis2_server.client", *SMALL, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRELLIS2_SERVER": server.url},
        text=True,
        **more,
    )


@pytest.mark.skipif(os.name != "posix", reason="Windows sends an interrupt differently")
def test_an_interrupt_cancels_the_jobs_and_exits_with_130(
    server: Server, engine: GatedEngine, tmp_path: Path
) -> None:
    engine.gates["shape"].clear()
    for name, shade in (("one.png", 1), ("two.png", 2)):
        (tmp_path / name).write_bytes(picture(shade))
    running = start(server, tmp_path, "one.png", "two.png", stderr=subprocess.PIPE)
    until(lambda: len(server.faults.paths("/events/")) == 2, "followed")
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 130
    assert error.endswith("interrupted; jobs in progress are cancelled\n")
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
    running = start(server, tmp_path, "one.png", "two.png", **ends)
    os.close(inner)
    shown = b""
    with contextlib.suppress(OSError):  # on Linux, reading fails once the other end is closed
        while piece := os.read(outer, 65_536):
            shown += piece
    os.close(outer)
    assert running.wait(PATIENCE_S) == 0
    text = shown.decode()
    assert "█" in text
    assert "% |" in text
    # If the second bar is already shown, the cursor is moved up from it first.
    assert re.search(r"\r(\x1b\[A)?one\.glb  0\.\d MB, seed 42, gated, \d+\.\d s\r\n", text)
    assert "the connection was lost; retrying" in text


def test_a_closed_standard_output_causes_no_stack_trace(server: Server, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(picture(1))
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = start(server, tmp_path, "one.png", "--quiet", **pipe)
    with running:
        assert running.stdout
        running.stdout.close()
        assert running.stderr
        assert running.stderr.read() == ""
        assert running.wait(PATIENCE_S) == 5


# ---- the exit code -----------------------------------------------------------------------------


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], int]:
    """Runs the command line with a batch that ends like that."""

    def run(outcome: Any) -> int:
        async def batch(_: Any) -> Any:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(cli, "run_batch", batch)
        monkeypatch.setattr(cli, "read_command", lambda arguments, program: (arguments, program))
        return cli.main(["one.png"])

    return run


def test_the_exit_code_is_that_of_the_batch(ending: Callable[[Any], int]) -> None:
    assert ending(ExitCode.SOME_FAILED) == 1
    assert ending(ExitCode.DONE) == 0


def test_wrong_arguments_are_said_on_standard_error(
    ending: Callable[[Any], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(UsageError("no such file")) == 2
    assert capsys.readouterr() == ("", "error: no such file\n")


@pytest.mark.parametrize("is_terminal", [False, True])
def test_an_interrupt_overwrites_what_a_terminal_shows_of_it(
    ending: Callable[[Any], int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_terminal: bool,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    assert ending(KeyboardInterrupt()) == 130
    text = "interrupted; jobs in progress are cancelled\n"
    assert capsys.readouterr().err == ("\r" if is_terminal else "") + text
