from __future__ import annotations

import os
import signal
import subprocess
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
    model_home,
    model_path,
    needs_opencv,
    needs_pooch,
    stand_in_packages,
)
from tests.support.pictures import encode, photograph
from trellis2_server.decoders import background
from trellis2_server.decoders.background import ModelProcess
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


def test_a_model_is_loaded_once_for_many_pictures(process: ModelProcess) -> None:
    session = process.open("counts")
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


def test_a_cancelled_picture_ends_the_process_and_the_next_one_starts_it(
    process: ModelProcess, noted: list[tuple[str, str]]
) -> None:
    session = process.open("counts")
    calls = iter(range(100))

    def check() -> None:
        if next(calls) > 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        session.mask(picture(HANG), check)
    assert noted == [("cancelled", "find_object")]
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


# ---- with stand-ins for rembg and onnxruntime ----------------------------------------


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


# ---- the server's process -------------------------------------------------------------


def run_server_cutter(background: str, home: Path) -> list[str]:
    """Cut out a picture as a server does; return how, and the heavy packages it imported."""
    code = (
        "import sys\n"
        "from trellis2_server import pipeline\n"
        "from trellis2_server.engines.preview import PreviewEngine\n"
        "from trellis2_server.settings import Settings\n"
        f"settings = Settings(model={{'background': {background!r}, 'offline': True}})\n"
        "decoders = pipeline.make_decoders(settings)\n"
        "cutter = pipeline.make_cutter(PreviewEngine(), settings, decoders)\n"
        "cutout = cutter.cut_out(sys.stdin.buffer.read())\n"
        "cutter.close(); decoders.close()\n"
        "heavy = {'rembg', 'onnxruntime', 'cv2', 'pooch', 'scipy', 'requests'}\n"
        "print(cutout.background, cutout.key, *heavy & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=encode(photograph()),
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"U2NET_HOME": str(home), "MODEL_CHECKSUM_DISABLED": "1"},
        timeout=300,
    )
    return done.stdout.decode().split()


def test_a_cutout_with_rembg_imports_no_model_into_the_server_and_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = model_home()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    in_process = (
        "import sys\n"
        "from trellis2_server.inputs.images import Cutter\n"
        "print(Cutter(background='rembg').cut_out(sys.stdin.buffer.read()).key)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", in_process],
        input=encode(photograph()),
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"U2NET_HOME": str(home), "MODEL_CHECKSUM_DISABLED": "1"},
        timeout=300,
    )
    assert run_server_cutter("rembg", home) == ["rembg", done.stdout.decode().strip()]


@needs_opencv
def test_a_cutout_with_grabcut_imports_no_opencv_into_the_server_and_is_the_same(
    tmp_path: Path,
) -> None:
    want = Cutter(background="grabcut").cut_out(encode(photograph()))
    assert run_server_cutter("grabcut", tmp_path) == ["grabcut", want.key]


@needs_opencv
def test_without_the_model_the_server_uses_grabcut(tmp_path: Path) -> None:
    want = Cutter(background="grabcut").cut_out(encode(photograph()))
    assert run_server_cutter("auto", tmp_path) == ["grabcut", want.key]
