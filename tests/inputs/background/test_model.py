from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.support.engines import PATIENCE_S
from tests.support.pictures import ColorSession, encode, photograph, vase
from trellis2_server.errors import EngineError
from trellis2_server.inputs.background import BackgroundModel, ModelPending
from trellis2_server.inputs.background.model import SessionLostError
from trellis2_server.inputs.images import Cutter

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opens_after(arrived: threading.Event) -> Callable[[str], ColorSession]:
    """Return a function that opens a session when its files have arrived."""

    def open_session(name: str) -> ColorSession:
        assert name
        arrived.wait(60)
        return ColorSession()

    return open_session


@pytest.mark.parametrize("error", [OSError("/home/secret"), SystemExit(1), MemoryError()])
def test_any_error_while_loading_becomes_an_engine_error_without_paths(
    error: BaseException,
) -> None:
    def fail(name: str) -> ColorSession:
        assert name == "isnet-general-use"
        raise error

    with pytest.raises(EngineError, match=type(error).__name__) as caught:
        Cutter(background="rembg", model=BackgroundModel(open_session=fail)).cut_out(
            encode(photograph())
        )
    assert "secret" not in str(caught.value)


def test_a_failed_load_is_tried_again_after_ten_minutes() -> None:
    loads: list[str] = []
    clock = Clock()

    def open_session(name: str) -> ColorSession:
        loads.append(name)
        if len(loads) == 1:
            raise OSError("no network")
        return ColorSession()

    cutter = Cutter(
        background="rembg", model=BackgroundModel(open_session=open_session, clock=clock)
    )
    data = encode(photograph())
    for later in (0, 300, 299):
        clock.now += later
        with pytest.raises(EngineError):
            cutter.cut_out(data)
    assert len(loads) == 1
    clock.now += 1
    for _ in range(3):
        assert cutter.cut_out(data).background == "rembg"
    assert len(loads) == 2


def test_many_pictures_at_once_load_the_model_once() -> None:
    loads: list[str] = []
    gate = threading.Barrier(4)

    def open_session(name: str) -> ColorSession:
        loads.append(name)
        return ColorSession()

    cutter = Cutter(model=BackgroundModel(open_session=open_session))

    def cut(data: bytes) -> str:
        gate.wait(PATIENCE_S)
        return cutter.cut_out(data).key

    with ThreadPoolExecutor(4) as threads:
        keys = set(threads.map(cut, [encode(photograph())] * 4))
    assert len(keys) == 1
    assert len(loads) == 1


def test_a_hanging_download_blocks_callers_only_until_its_timeout() -> None:
    network, started = threading.Event(), threading.Event()
    loads: list[str] = []

    def open_session(name: str) -> ColorSession:
        loads.append(name)
        started.set()
        assert network.wait(60)
        return ColorSession()

    clock = Clock()
    cutter = Cutter(
        background="rembg",
        model=BackgroundModel(open_session=open_session, timeout_s=60, clock=clock),
    )
    data = encode(photograph())
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(cutter.cut_out, data)
        assert started.wait(60)
        # Pictures that do not need the model do not wait for it.
        assert cutter.cut_out(encode(vase())).background == "alpha"
        assert cutter.cut_out(data, remove_background=False).background == "none"
        # The timeout counts from the first call; calls after it do not wait.
        clock.now += 61
        with pytest.raises(EngineError, match="not ready within 60 s"):
            cutter.cut_out(data)
        clock.now += 6000
        with pytest.raises(EngineError, match="not ready within 60 s"):
            cutter.cut_out(data)
        # The download continues after the timeout and is not repeated.
        network.set()
        assert waiting.result(60).background == "rembg"
    assert cutter.cut_out(data).background == "rembg"
    assert len(loads) == 1


def test_waiting_for_a_model_times_out() -> None:
    network = threading.Event()
    cutter = Cutter(
        background="rembg", model=BackgroundModel(open_session=opens_after(network), timeout_s=0.05)
    )
    with pytest.raises(EngineError, match=r"not ready within 0\.05 s"):
        cutter.cut_out(encode(photograph()))
    network.set()


def test_a_caller_that_does_not_wait_gets_model_pending() -> None:
    arrived = threading.Event()
    cutter = Cutter(
        background="rembg", model=BackgroundModel(open_session=opens_after(arrived), timeout_s=10)
    )
    with pytest.raises(ModelPending) as pending:
        cutter.cut_out(encode(photograph()), wait=False)
    assert 0 < pending.value.timeout_s <= 10
    arrived.set()
    pending.value.loaded.result(10)
    assert cutter.cut_out(encode(photograph()), wait=False).background == "rembg"


def test_a_picture_with_transparency_does_not_wait_for_a_model() -> None:
    arrived = threading.Event()
    cutter = Cutter(background="rembg", model=BackgroundModel(open_session=opens_after(arrived)))
    with pytest.raises(ModelPending):
        cutter.cut_out(encode(photograph()), wait=False)
    cut = Image.new("RGBA", (64, 64))
    cut.paste((200, 30, 30, 255), (8, 8, 56, 56))
    assert cutter.cut_out(encode(cut), wait=False).background == "alpha"
    arrived.set()


class HeldSession(ColorSession):
    """Waits until it may answer, or until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = threading.Event()
        self.may_go_on = threading.Event()
        self.is_closed = False

    def mask(self, rgb: NDArray[np.uint8], check: object) -> NDArray[np.uint8]:
        self.runs.set()
        assert self.may_go_on.wait(60)
        return super().mask(rgb, check)

    def close(self) -> None:
        self.is_closed = True
        self.may_go_on.set()


class Cancelled(Exception):  # noqa: N818 - as the one of a step
    pass


def cancel() -> None:
    raise Cancelled


def test_a_picture_that_waits_for_its_turn_can_be_cancelled() -> None:
    session = HeldSession()
    cutter = Cutter(background="rembg", model=BackgroundModel(open_session=lambda _: session))
    data = encode(photograph())
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(cutter.cut_out, data)
        assert session.runs.wait(60)
        with pytest.raises(Cancelled):
            cutter.cut_out(data, check=cancel)
        session.may_go_on.set()
        assert first.result(60).background == "rembg"


def test_a_picture_that_waits_for_a_download_can_be_cancelled() -> None:
    network, begun = threading.Event(), threading.Event()
    opens = opens_after(network)

    def open_session(name: str) -> ColorSession:
        begun.set()
        return opens(name)

    def cancel_while_it_loads() -> None:
        if begun.is_set():
            raise Cancelled

    cutter = Cutter(background="rembg", model=BackgroundModel(open_session=open_session))
    with ThreadPoolExecutor(1) as threads:
        picture = threads.submit(cutter.cut_out, encode(photograph()), check=cancel_while_it_loads)
        with pytest.raises(Cancelled):
            picture.result(60)
    network.set()


def test_a_lost_model_is_opened_again_for_the_next_picture() -> None:
    loads: list[str] = []

    class LostOnce(ColorSession):
        def mask(self, rgb: NDArray[np.uint8], check: object) -> NDArray[np.uint8]:
            if len(loads) == 1:
                raise SessionLostError("it is gone")
            return super().mask(rgb, check)

    def open_session(name: str) -> LostOnce:
        loads.append(name)
        return LostOnce()

    cutter = Cutter(background="rembg", model=BackgroundModel(open_session=open_session))
    with pytest.raises(EngineError, match="it is gone"):
        cutter.cut_out(encode(photograph()))
    assert cutter.cut_out(encode(photograph())).background == "rembg"
    assert len(loads) == 2


def test_closing_a_cutter_closes_its_model_and_ends_what_opens_one() -> None:
    session = HeldSession()
    cutter = Cutter(background="rembg", model=BackgroundModel(open_session=lambda _: session))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(cutter.cut_out, encode(photograph()))
        assert session.runs.wait(60)
        cutter.close()
        running.result(60)
    assert session.is_closed
    with pytest.raises(EngineError, match="is closed"):
        cutter.cut_out(encode(photograph()))

    opens, stopped, closed = threading.Event(), threading.Event(), threading.Event()

    class LateSession(ColorSession):
        def close(self) -> None:
            closed.set()

    def open_late(name: str) -> LateSession:
        assert name
        opens.set()
        assert stopped.wait(60)
        return LateSession()

    cutter = Cutter(
        background="rembg",
        model=BackgroundModel(open_session=open_late, stop_opening=stopped.set),
    )
    with pytest.raises(ModelPending):
        cutter.cut_out(encode(photograph()), wait=False)
    assert opens.wait(60)
    cutter.close()
    assert closed.wait(60)
