from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.background_packages import (
    MODEL,
    NAME,
    model_path,
    needs_opencv,
    needs_pooch,
    stand_in_packages,
)
from tests.support.pictures import encode, photograph
from trellis2_server.decoders import background
from trellis2_server.decoders.background import ModelProcess
from trellis2_server.decoders.confinement import READS_LIBRARIES
from trellis2_server.decoders.limits import DecoderLimits
from trellis2_server.decoders.process import DecoderProcess
from trellis2_server.errors import EngineError, MissingPackageError
from trellis2_server.inputs.background.model import BackgroundModel, SessionLostError
from trellis2_server.inputs.images import Cutter
from trellis2_server.reports import no_check

if TYPE_CHECKING:
    from collections.abc import Generator

PIXELS = np.asarray(photograph())
TASKS = "tests.support.background_tasks:TASKS"


@pytest.fixture
def noted() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def process(noted: list[tuple[str, str]]) -> Generator[ModelProcess]:
    """A process with tasks of `tests.support.background_tasks`."""

    def note_end(reason: str, task: str, text: str) -> None:
        del text
        noted.append((reason, task))

    start = partial(DecoderProcess, DecoderLimits(2**30, 60, is_kept=True), tasks=TASKS)
    process = ModelProcess(offline=True, start=start, note_end=note_end)
    yield process
    process.close()
    assert process.pid is None


def picture(first: int) -> Any:
    """A picture whose first value tells the tasks what to do."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[0, 0, 0] = first
    return pixels


MASK, CRASH, HANG, WRONG_SHAPE, ERROR = range(5)


@pytest.mark.parametrize("name", ["small", "large"])
def test_a_model_is_loaded_once_for_many_pictures(process: ModelProcess, name: str) -> None:
    session = process.open(name)
    pid = process.pid
    for _ in range(3):
        assert session.mask(picture(MASK), no_check).shape == (20, 30)
    assert process.pid == pid


def test_a_picture_whose_process_ends_is_tried_once_more(
    process: ModelProcess, noted: list[tuple[str, str]]
) -> None:
    session = process.open("counts")
    first = process.pid
    assert first
    os.kill(first, signal.SIGKILL)
    assert session.mask(picture(MASK), no_check).shape == (20, 30)
    second = process.pid
    assert second != first
    with pytest.raises(EngineError, match=r"model counts ended the process \(SIGKILL\)$"):
        session.mask(picture(CRASH), no_check)
    assert noted[-2:] == [("crash", "find_object")] * 2
    assert session.mask(picture(MASK), no_check).shape == (20, 30)


@needs_opencv
def test_a_picture_that_ends_the_process_twice_fails_alone_or_falls_back(
    process: ModelProcess,
) -> None:
    model = BackgroundModel("counts", open_session=process.open)
    image = photograph()
    image.putpixel((0, 0), (CRASH, 0, 0))
    cutout = Cutter(model=model).cut_out(encode(image))
    assert cutout.background == "grabcut"
    assert "the background model counts ended the process (SIGKILL)" in cutout.warnings[0]
    with pytest.raises(EngineError, match="ended the process"):
        Cutter(background="rembg", model=model).cut_out(encode(image))
    assert model.mask(picture(MASK), wait=True).shape == (20, 30)


def test_a_process_that_ends_while_it_loads_is_started_once_more(
    process: ModelProcess, noted: list[tuple[str, str]]
) -> None:
    with pytest.raises(EngineError, match="loading the background model crash ended the process"):
        process.open("crash")
    assert noted == [("crash", "load_model")] * 2


def test_a_prediction_that_takes_too_long_is_killed_and_not_repeated(
    process: ModelProcess, noted: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = process.open("counts")
    monkeypatch.setattr(background, "PREDICTION_TIMEOUT_S", 0.2)
    with pytest.raises(EngineError, match=r"model counts took longer than 0\.2 seconds"):
        session.mask(picture(HANG), no_check)
    assert noted == [("timeout", "find_object")]
    assert process.pid is None


class Cancelled(Exception):  # noqa: N818 - as the one of a step
    pass


def test_a_cancelled_picture_leaves_the_model_loaded(
    process: ModelProcess, noted: list[tuple[str, str]]
) -> None:
    session = process.open("counts")
    pid = process.pid
    calls = iter(range(100))

    def check() -> None:
        if next(calls) > 0:
            raise Cancelled

    with pytest.raises(Cancelled):
        session.mask(picture(MASK), check)
    assert not noted
    assert process.pid == pid
    assert session.mask(picture(MASK), no_check).shape == (20, 30)


def test_a_mask_of_another_size_and_an_error_of_the_model_are_engine_errors(
    process: ModelProcess,
) -> None:
    session = process.open("counts")
    pid = process.pid
    with pytest.raises(EngineError, match="gave no mask"):
        session.mask(picture(WRONG_SHAPE), no_check)
    with pytest.raises(EngineError, match="on this picture"):
        session.mask(picture(ERROR), no_check)
    assert process.pid == pid


def test_closing_ends_a_call_that_runs(process: ModelProcess) -> None:
    session = process.open("counts")
    runs = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(session.mask, picture(HANG), runs.set)
        assert runs.wait(60)
        process.close()
        with pytest.raises(EngineError):
            call.result(60)
    with pytest.raises(EngineError, match="closed"):
        session.mask(picture(MASK), no_check)


def test_a_process_that_cannot_be_started_is_an_engine_error() -> None:
    def fail() -> DecoderProcess:
        raise OSError("no more processes")

    with pytest.raises(EngineError, match="no process could be started"):
        ModelProcess(offline=True, start=fail).open("counts")


def test_the_process_is_confined_as_a_decoder_is_and_reads_the_models_besides(
    process: ModelProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = DecoderProcess(DecoderLimits(2**30, 60))
    usual.wait_until_ready(no_check)
    usual.kill()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.onnx").write_text("a model")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "link.onnx").symlink_to(tmp_path / "elsewhere" / "model.onnx")
    (tmp_path / "secret").write_text("a key")
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "home"))

    started: list[DecoderProcess] = []

    def start() -> DecoderProcess:
        started.append(background.start_model_process(TASKS))
        return started[-1]

    process = ModelProcess(offline=True, start=start)
    process.open("counts")
    assert started[0].confinement == usual.confinement
    for path, can_be_read in (
        ("home/link.onnx", True),
        ("secret", READS_LIBRARIES not in usual.confinement),
    ):
        answer = started[0].call("read", str(tmp_path / path).encode(), {})
        assert answer.meta == {"can_be_read": can_be_read}, path
    process.close()


@needs_pooch
def test_a_loaded_model_limits_the_memory_of_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform != "linux":
        pytest.skip("the limit is read from /proc")
    with stand_in_packages(tmp_path, monkeypatch):
        process = ModelProcess(offline=False)
        process.open(NAME)
        text = Path(f"/proc/{process.pid}/limits").read_text()
        line = next(line for line in text.splitlines() if line.startswith("Max address space"))
        process.close()
    assert 2**32 < int(line.split()[3]) < 2**33


# ---- with stand-ins for rembg and onnxruntime ----------------------------------------


@pytest.mark.costly
@needs_pooch
@pytest.mark.parametrize("version", ["old", "new"])
def test_a_missing_model_is_downloaded_and_a_damaged_one_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: Any
) -> None:
    path = model_path(tmp_path, version)
    with stand_in_packages(tmp_path, monkeypatch, version) as origin:
        for state, content in (("missing", None), ("cut short", MODEL[:100]), ("whole", MODEL)):
            if content is not None:
                path.write_bytes(content)
            before = origin.downloads
            process = ModelProcess(offline=False)
            try:
                mask = process.open(NAME).mask(PIXELS, no_check)
            finally:
                process.close()
            assert 0 < (mask > 0).sum() < mask.size
            assert path.read_bytes() == MODEL
            assert origin.downloads - before == (state != "whole"), state
    names = {file.name for file in path.parent.iterdir()} - {"models"}
    assert names == {path.name, f"{path.name}.damaged"}
    assert path.with_name(f"{path.name}.damaged").read_bytes() == MODEL[:100]


@needs_pooch
@pytest.mark.parametrize(
    ("case", "end"),
    [
        ("offline", "is damaged, and this machine is offline"),
        ("disabled", "not fetched again because MODEL_CHECKSUM_DISABLED is set"),
        ("offline, disabled", "not fetched again because MODEL_CHECKSUM_DISABLED is set"),
    ],
)
def test_a_damaged_model_that_may_not_be_fetched_is_named_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, end: str
) -> None:
    path = model_path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no model")
    with stand_in_packages(tmp_path, monkeypatch) as origin:
        if "disabled" in case:
            monkeypatch.setenv("MODEL_CHECKSUM_DISABLED", "1")
        process = ModelProcess(offline="offline" in case)
        with pytest.raises(EngineError, match=f"{NAME}.onnx of the background model.*{end}"):
            process.open(NAME)
        process.close()
        assert origin.downloads == 0
    assert path.read_bytes() == b"no model"


@pytest.mark.costly
@needs_pooch
def test_a_file_without_a_known_hash_is_fetched_again_if_it_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model_path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no model")
    with stand_in_packages(tmp_path, monkeypatch, has_hash=False) as origin:
        process = ModelProcess(offline=False)
        process.open(NAME)
        process.close()
        assert origin.downloads == 1
        path.write_bytes(b"no model")
        origin.content = b"no model either"
        process = ModelProcess(offline=False)
        with pytest.raises(EngineError, match="is damaged again after it was fetched"):
            process.open(NAME)
        process.close()
        assert origin.downloads == 2


@pytest.mark.costly
@needs_pooch
def test_a_model_that_is_lost_is_fetched_for_the_next_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stand_in_packages(tmp_path, monkeypatch) as origin:
        process = ModelProcess(offline=False)
        model = BackgroundModel(NAME, open_session=process.open, stop_opening=process.close)
        model.mask(PIXELS, wait=True)
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        model_path(tmp_path).unlink()
        with pytest.raises(SessionLostError, match="is not on this machine"):
            model.mask(PIXELS, wait=True)
        model.mask(PIXELS, wait=True)
        model.close()
        assert origin.downloads == 2


@needs_pooch
def test_models_that_do_not_exist_or_that_send_pictures_away_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stand_in_packages(tmp_path, monkeypatch):
        process = ModelProcess(offline=False)
        with pytest.raises(EngineError, match="rembg has no background model 'unknown'"):
            process.open("unknown")
        with pytest.raises(EngineError, match="would send the pictures to a service"):
            process.open("elsewhere")
        process.close()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = "
        "lambda name, *more: None if name == 'rembg' else real(name, *more)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    process = ModelProcess(offline=False)
    with pytest.raises(MissingPackageError, match=r'pip install "rembg\[cpu\]"'):
        process.open(NAME)
    process.close()
