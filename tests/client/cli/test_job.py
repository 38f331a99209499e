"""Jobs of the command line, and the files that they write."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trellis2_server.client import JobFailedError, JobState, Progress, Result
from trellis2_server.client.cli import batch, job
from trellis2_server.client.cli.arguments import read_command
from trellis2_server.client.cli.atomic_write import write_atomically
from trellis2_server.client.cli.job import Outcome, run_job
from trellis2_server.client.errors import BusyError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.engines import GatedEngine
    from tests.support.server import Server

    Run = Callable[..., tuple[int, str, str]]


def test_the_shape_is_written_while_its_texture_is_generated(
    run: Run, server: Server, engine: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.gates["texture"].clear()
    written: list[str] = []

    def write(path: Path, content: bytes) -> None:
        write_atomically(path, content)
        written.append(str(path))
        engine.open_all()

    monkeypatch.setattr(job, "write_atomically", write)
    assert run("one.png", "--with-shape")[0] == 0
    assert written == ["one_shape.glb", "one.glb"]
    del server


def test_a_mesh_is_textured_and_not_overwritten(run: Run) -> None:
    assert run("one.png", "--shape-only", "--output", "chair.glb")[0] == 0
    code, output, _ = run("two.png", "--mesh", "chair.glb", "--geo-rotation", 90)
    assert (code, output) == (0, "two.glb\n")
    code, _, error = run("two.png", "--mesh", "chair.glb", "--output", "chair.glb")
    assert (code, "chair.glb: would be overwritten" in error) == (2, True)


@pytest.mark.costly
def test_a_thumbnail_shows_the_glb_of_a_model_of_another_type(run: Run) -> None:
    assert run("one.png", "--type", "ply", "--thumbnail")[:2] == (0, "one.ply\none_thumbnail.png\n")
    assert run("one.png", "--type", "obj_zip", "--output", "x.zip")[:2] == (0, "x.zip\n")


# ---- by themselves -----------------------------------------------------------------------------


class Generating:
    """Stands for a client whose job has these states and this result."""

    def __init__(self, result: Result | Exception, *states: JobState, shape: bytes = b"") -> None:
        self.result = result
        self.states = states
        self.shape = shape
        self.asked: list[Any] = []

    async def generate(
        self,
        picture: Path,
        on_progress: Callable[[Progress], None],
        on_shape: Callable[[bytes], None],
        **request: Any,
    ) -> Result:
        self.asked.append((picture, request))
        on_progress(Progress(0.0, "waiting"))
        for state in self.states:
            on_progress(Progress(0.5, "shape", job=state))
        if self.shape:
            on_shape(self.shape)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    async def download(self, uid: str, file: str) -> bytes:
        self.asked.append((uid, file))
        return b"not a GLB"


class Rows:
    """A display that remembers."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.texts: list[str] = []
        self.fraction = 0.0
        self.ended = 0

    def row(self, name: str) -> Rows:
        self.names.append(name)
        return self

    def show(self, progress: Progress) -> None:
        self.texts.append(progress.text)
        self.fraction = progress.fraction

    def end(self) -> None:
        self.ended += 1

    def write(self, line: str, file: Any = None) -> None:
        raise AssertionError(line, file)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("one.png", "two.png"):
        (tmp_path / name).touch()
    return tmp_path


def run_alone(client: Any, *arguments: str) -> tuple[Outcome, Rows]:
    rows = Rows()
    command = read_command(["one.png", "two.png", *arguments])
    return asyncio.run(run_job(client, command, 2, rows)), rows


RESULT = Result("u", "glb", None, b"model", image_hash="h", seed=7)


def test_the_model_is_written_under_what_is_known_of_its_job(folder: Path) -> None:
    client = Generating(RESULT)
    outcome, rows = run_alone(
        client, "--output", "{stem}-{index}-{seed}-{uid}-{hash}", "--seed", "7"
    )
    assert outcome.files == {"model": Path("two-2-7-u-h.glb")}
    assert (folder / "two-2-7-u-h.glb").read_bytes() == b"model"
    assert (outcome.picture, outcome.result, outcome.error) == (Path("two.png"), RESULT, None)
    assert client.asked[0][0] == Path("two.png")
    assert client.asked[0][1]["seed"] == 7
    assert (rows.names, rows.ended) == (["two.png"], 1)


def test_a_shape_is_written_early_under_what_is_known_by_then_and_once(folder: Path) -> None:
    state = JobState("u", "texture_processing", seed=7)
    early = Generating(Result("u", "glb", b"shape", b"model", seed=8), state, shape=b"shape")
    outcome, _ = run_alone(early, "--with-shape", "--output", "{index}_{seed}_{hash}")
    assert outcome.files == {
        "shape": Path("2_7_unknown_shape.glb"), "model": Path("2_8_unknown.glb"),
    }  # fmt: skip
    assert (folder / "2_7_unknown_shape.glb").read_bytes() == b"shape"
    late = Generating(Result("u", "glb", b"shape", b"model"))
    assert set(run_alone(late, "--with-shape")[0].files) == {"model", "shape"}
    none = Generating(Result("u", "glb", None, b"model"))
    assert set(run_alone(none, "--with-shape")[0].files) == {"model"}
    unwanted = Generating(Result("u", "glb", b"shape", b"model"))
    assert set(run_alone(unwanted)[0].files) == {"model"}


def test_a_failed_job_ends_its_row_and_says_how_long_it_took(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([10.0, 12.5])
    monkeypatch.setattr(job, "time", type("Clock", (), {"monotonic": lambda: next(now)}))
    error = JobFailedError("no", uid="u")
    outcome, rows = run_alone(Generating(error))
    assert (outcome.error, outcome.files, outcome.result) == (error, {}, None)
    assert (outcome.seconds, rows.ended) == (2.5, 1)
    del folder


@pytest.mark.parametrize(
    ("arguments", "file"), [((), "textured.glb"), (("--shape-only",), "shape.glb")]
)
def test_a_thumbnail_of_another_type_is_drawn_from_the_glb(
    folder: Path, arguments: tuple[str, ...], file: str
) -> None:
    client = Generating(RESULT)
    outcome, rows = run_alone(client, "--type", "ply", "--thumbnail", *arguments)
    assert client.asked[1] == ("u", file)
    assert "GLB" in str(outcome.error)
    assert (rows.texts[-1], rows.fraction) == ("drawing the thumbnail", 1.0)
    del folder


# ---- waiting for the server ----------------------------------------------------------------------


class Waiting:
    """Stands for a client whose server reports this progress, then this error."""

    def __init__(self, fractions: list[float], error: Exception | None = None) -> None:
        self.fractions = fractions
        self.error = error
        self.limits: list[float] = []

    async def wait_until_ready(self, limit_s: float, show: Callable[[Progress], None]) -> None:
        self.limits.append(limit_s)
        for fraction in self.fractions:
            show(Progress(fraction, f"{fraction:.0%}"))
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("is_awaited", [False, True])
@pytest.mark.parametrize(
    "error", [None, BusyError("loading", status=503), UnreachableError("refused")]
)
def test_a_server_that_loads_is_an_error_only_where_it_was_to_be_awaited(
    *, is_awaited: bool, error: Exception | None
) -> None:
    rows, client = Rows(), Waiting([0.5, 1.0], error)
    found = asyncio.run(batch._connect(client, rows, is_awaited=is_awaited))  # pyright: ignore[reportArgumentType]
    is_fatal = is_awaited or not isinstance(error, BusyError)
    assert found is (error if is_fatal else None)
    assert client.limits == [float("inf") if is_awaited else batch.FIRST_CONTACT_S]
    assert (rows.names, rows.texts, rows.ended) == (["server"], ["50%", "100%"], 1)


def test_a_server_that_is_ready_is_not_worth_a_row() -> None:
    rows = Rows()
    asyncio.run(batch._connect(Waiting([1.0]), rows, is_awaited=False))  # pyright: ignore[reportArgumentType]
    assert rows.texts == []


@pytest.mark.parametrize("error", [None, UnreachableError("refused")])
def test_nothing_is_sent_to_a_server_that_cannot_be_used(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    error: UnreachableError | None,
) -> None:
    ran: list[int] = []

    async def connect(*_: Any, **__: Any) -> UnreachableError | None:
        return error

    async def run(_: Any, command: Any, index: int, __: Any) -> Outcome:
        ran.append(index)
        return Outcome(command.pictures[index - 1])

    monkeypatch.setattr(batch, "_connect", connect)
    monkeypatch.setattr(batch, "run_job", run)
    code = asyncio.run(batch.run_batch(read_command(["one.png", "two.png", "--server", "host"])))
    assert code == (0 if error is None else 3)
    assert ran == ([1, 2] if error is None else [])
    assert ("error: refused" in capsys.readouterr().err) is (error is not None)
    del folder
