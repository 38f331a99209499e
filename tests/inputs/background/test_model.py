from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from tests.support.pictures import ColorSession, encode, photograph, vase
from trellis2_server.errors import EngineError
from trellis2_server.inputs.background import BackgroundModel, ModelPending
from trellis2_server.inputs.images import Cutter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


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


def test_a_model_that_fails_on_a_picture_is_an_engine_error() -> None:
    class Broken:
        def predict(self, img: Image.Image) -> list[Image.Image]:
            raise RuntimeError(f"{img.size} at /home/secret")

    with pytest.raises(EngineError, match=r"isnet-general-use failed \(RuntimeError\)$"):
        Cutter(background="rembg", model=BackgroundModel(open_session=lambda _: Broken())).cut_out(
            encode(photograph())
        )


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
        gate.wait(30)
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

    def open_session(name: str) -> ColorSession:
        assert name
        network.wait(60)
        return ColorSession()

    cutter = Cutter(
        background="rembg", model=BackgroundModel(open_session=open_session, timeout_s=0.05)
    )
    with pytest.raises(EngineError, match=r"not ready within 0\.05 s"):
        cutter.cut_out(encode(photograph()))
    network.set()


def test_a_caller_that_does_not_wait_gets_model_pending() -> None:
    arrived = threading.Event()

    def open_session(name: str) -> ColorSession:
        assert name
        arrived.wait(10)
        return ColorSession()

    cutter = Cutter(
        background="rembg", model=BackgroundModel(open_session=open_session, timeout_s=10)
    )
    with pytest.raises(ModelPending) as pending:
        cutter.cut_out(encode(photograph()), wait=False)
    assert 0 < pending.value.timeout_s <= 10
    arrived.set()
    pending.value.loaded.result(10)
    assert cutter.cut_out(encode(photograph()), wait=False).background == "rembg"


def test_a_picture_with_transparency_does_not_wait_for_a_model() -> None:
    arrived = threading.Event()

    def open_session(name: str) -> ColorSession:
        assert name
        arrived.wait(10)
        return ColorSession()

    cutter = Cutter(background="rembg", model=BackgroundModel(open_session=open_session))
    with pytest.raises(ModelPending):
        cutter.cut_out(encode(photograph()), wait=False)
    cut = Image.new("RGBA", (64, 64))
    cut.paste((200, 30, 30, 255), (8, 8, 56, 56))
    assert cutter.cut_out(encode(cut), wait=False).background == "alpha"
    arrived.set()


def test_the_masks_of_several_garments_are_joined() -> None:
    class Garments:
        def predict(self, img: Image.Image) -> list[Image.Image]:
            masks = [Image.new("L", img.size), Image.new("L", img.size)]
            masks[0].paste(200, (0, 0, 2, 2))
            masks[1].paste(100, (1, 1, 3, 3))
            return masks

    model = BackgroundModel(open_session=lambda _: Garments())
    mask = model.mask(Image.new("RGB", (3, 3)), wait=True)
    assert mask.tolist() == [[200, 200, 0], [200, 200, 100], [0, 100, 100]]
