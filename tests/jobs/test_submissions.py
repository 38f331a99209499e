"""Pictures that are submitted, and the names they have."""

from __future__ import annotations

import asyncio
import io
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.managers import (
    HeldCutter,
    in_a_loop,
    options,
    submit,
    until,
    working,
)
from tests.support.server import picture
from trellis2_server.errors import (
    InputError,
)
from trellis2_server.inputs.background import BackgroundModel
from trellis2_server.inputs.images import Cutter

if TYPE_CHECKING:
    from numpy.typing import NDArray


@in_a_loop
async def test_a_file_that_is_no_picture_is_an_input_error(engine: GatedEngine) -> None:
    async with working(engine) as service:
        job = await service.submit(b"no picture", options(), texture=None)
        with pytest.raises(InputError, match=r"^image: "):
            await service.wait_for_shape(job)
        with pytest.raises(InputError, match=r"^image: "):
            await service.wait_for_texture(job)
        with pytest.raises(InputError, match=r"^image: "):
            await service.identify(b"no picture", remove_background=True)


@in_a_loop
async def test_a_picture_identifies_its_job_at_any_time(engine: GatedEngine) -> None:
    cutter = HeldCutter()
    async with working(engine, cutter=cutter) as service:
        cutter.gate.clear()
        job = await submit(service, 1)
        assert await service.identify(picture(), remove_background=True) == job.uid
        cutter.gate.set()
        done = await service.wait_for_shape(job)
        assert await service.identify(picture(), remove_background=True) == done.image_hash
        assert len(cutter.calls) == 1
        webp = picture(0, file_format="WEBP")
        assert await service.identify(webp, remove_background=True) == done.image_hash
        assert await service.identify(webp, remove_background=True) == done.image_hash
        assert len(cutter.calls) == 2


def opaque() -> bytes:
    image = Image.new("RGB", (64, 64), (250, 250, 250))
    image.paste((200, 30, 30), (16, 16, 48, 48))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


class Session:
    def mask(self, rgb: NDArray[np.uint8], check: object) -> NDArray[np.uint8]:
        del check
        mask = np.zeros(rgb.shape[:2], np.uint8)
        mask[16:48, 16:48] = 255
        return mask

    def close(self) -> None: ...


@in_a_loop
async def test_a_background_model_that_loads_does_not_hold_up_other_jobs(
    engine: GatedEngine,
) -> None:
    there = threading.Event()

    def open_session(name: str) -> Session:
        assert name
        assert there.wait(PATIENCE_S)
        return Session()

    cutter = Cutter(background="rembg", model=BackgroundModel(open_session=open_session))
    async with working(engine, cutter=cutter, limit_model_concurrency=1) as service:
        waits = await service.submit(opaque(), options(), texture=None)
        await until(lambda: service.job(waits.uid).progress is not None)
        assert service.queue_position(waits) is None
        assert service.queue_length == 1
        assert (await service.wait_for_texture(await submit(service, 1))).background == "alpha"
        frame = Image.open(io.BytesIO(opaque()))
        frame.save(other := io.BytesIO(), "WEBP", lossless=True)
        names = [
            asyncio.ensure_future(service.identify(content, remove_background=True))
            for content in (other.getvalue(), picture(0, file_format="WEBP"))
        ]
        assert await names[1]  # of a picture with its own alpha: at once
        assert not names[0].done()
        there.set()
        assert await names[0] == (await service.wait_for_shape(waits)).image_hash
        assert (await service.wait_for_texture(waits)).background == "rembg"
