from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.background_packages import (
    MODEL,
    NAME,
    Origin,
    model_path,
    needs_pooch,
    stand_in_packages,
)
from tests.support.pictures import ColorSession, encode, photograph
from tests.support.server import until
from trellis2_server.errors import EngineError
from trellis2_server.inputs.background import BackgroundModel, FetchState
from trellis2_server.inputs.background.fetcher import ModelFetcher
from trellis2_server.inputs.background.prefetch import Prefetch
from trellis2_server.inputs.images import Cutter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

pytestmark = needs_pooch

PATIENCE_S = 120.0


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Origin]:
    with stand_in_packages(tmp_path, monkeypatch) as origin:
        yield origin


def running() -> bool:
    """Whether a fetch goes on in the background."""
    return any(each.name == "background-prefetch" for each in threading.enumerate())


def put(folder: Path, content: bytes) -> Path:
    path = model_path(folder)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("existing", [None, MODEL[:9], b"wrong" * 100])
def test_what_is_missing_or_damaged_is_there_afterwards(
    tmp_path: Path, origin: Origin, existing: bytes | None
) -> None:
    if existing is not None:
        put(tmp_path, existing)
    ready = threading.Event()
    prefetch = Prefetch(NAME, ModelFetcher(), offline=False)
    for _ in range(2):  # a second start does nothing
        prefetch.start(ready.set)
    assert ready.wait(PATIENCE_S)
    path = model_path(tmp_path)
    assert path.read_bytes() == MODEL
    assert path.with_name(f"{path.name}.damaged").exists() == (existing is not None)
    assert origin.downloads == 1
    assert prefetch.state is not None
    assert prefetch.state.state == "ready"


def test_a_model_that_is_there_is_not_downloaded(tmp_path: Path, origin: Origin) -> None:
    put(tmp_path, MODEL)
    for offline in (False, True):
        ready = threading.Event()
        prefetch = Prefetch(NAME, ModelFetcher(), offline=offline)
        prefetch.start(ready.set)
        assert ready.wait(PATIENCE_S)
        assert prefetch.state == FetchState(NAME, "ready")
    assert origin.downloads == 0


@pytest.mark.parametrize(
    ("existing", "said"),
    [
        (None, f"the background model {NAME} is not on this machine, which is offline"),
        (
            MODEL[:9],
            (
                f"the file {NAME}.onnx of the background model {NAME} is damaged, and this "
                "machine is offline"
            ),
        ),
    ],
)
def test_an_offline_machine_says_what_is_wrong_and_downloads_nothing(
    tmp_path: Path, origin: Origin, existing: bytes | None, said: str
) -> None:
    if existing is not None:
        put(tmp_path, existing)
    prefetch = Prefetch(NAME, ModelFetcher(), offline=True)
    prefetch.start(lambda: None)
    failed = FetchState(NAME, "failed", error=said)
    until(lambda: prefetch.state == failed, "what is wrong", patience_s=PATIENCE_S)
    assert origin.downloads == 0


def test_a_failed_fetch_is_tried_again(tmp_path: Path, origin: Origin) -> None:
    origin.cut_at = 100
    ready = threading.Event()
    prefetch = Prefetch(NAME, ModelFetcher(), offline=False, retry_s=0.01)
    prefetch.start(ready.set)
    until(lambda: origin.downloads > 1, "another try", patience_s=PATIENCE_S)
    assert not model_path(tmp_path).exists()
    assert not ready.is_set()
    origin.cut_at = None
    assert ready.wait(PATIENCE_S)
    assert model_path(tmp_path).read_bytes() == MODEL


class SteeredPrefetch(Prefetch):
    """A fetch that ends when the test calls `end`."""

    def __init__(self) -> None:
        super().__init__(NAME, ModelFetcher(), offline=True)

    def start(self, on_ready: Callable[[], None]) -> None:
        self.end = on_ready


def test_a_picture_after_the_fetch_loads_a_model_that_could_not_be_loaded_before() -> None:
    is_there = False

    def open_session(name: str) -> ColorSession:
        if not is_there:
            raise EngineError(f"{name} is not there")
        return ColorSession()

    prefetch = SteeredPrefetch()
    model = BackgroundModel(NAME, open_session=open_session, prefetch=prefetch)
    assert model.state() is None
    model.prefetch()
    cutter = Cutter(background="rembg", model=model)
    for _ in range(2):
        with pytest.raises(EngineError, match="is not there"):
            cutter.cut_out(encode(photograph()))
        is_there = True
    assert cutter.model_state() == FetchState(NAME, "failed", error=f"{NAME} is not there")
    prefetch.end()
    assert cutter.model_state() is None
    assert cutter.cut_out(encode(photograph())).background == "rembg"
    assert cutter.model_state() == FetchState(NAME, "loaded")
    prefetch.end()
    assert cutter.model_state() == FetchState(NAME, "loaded")


def test_closing_ends_a_fetch_and_its_tries(tmp_path: Path, origin: Origin) -> None:
    origin.may_end.clear()
    fetcher = ModelFetcher()
    prefetch = Prefetch(NAME, fetcher, offline=False, retry_s=0.01)
    prefetch.start(lambda: None)
    assert origin.reached.wait(PATIENCE_S)
    assert running()
    prefetch.close()
    fetcher.close()
    until(lambda: not running(), "the end of its thread")
    assert origin.downloads == 1
    assert not model_path(tmp_path).exists()
    prefetch.start(lambda: None)
    assert not running()
