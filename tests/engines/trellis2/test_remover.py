from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.support.trellis2_engine import (
    HOME,
    STANDIN,
    edit_pipeline,
    make,
    options,
    settings,
    silent,
)
from trellis2_server import pipeline
from trellis2_server.engines.trellis2 import Trellis2Engine
from trellis2_server.errors import EngineError
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def with_remover(folder: Path) -> Settings:
    """Settings with a remover whose files seem to be on this machine."""
    edit_pipeline(folder, lambda args: args["rembg_model"]["args"].update(model_name=str(folder)))
    return Settings(model=settings(folder, background="upstream"))


@pytest.mark.skipif(HOME != STANDIN, reason="TRELLIS.2's own remover runs on CUDA alone")
@pytest.mark.parametrize("low_vram", [False, True])
def test_trellis2s_remover_cuts_out_if_it_is_configured(copy: Path, *, low_vram: bool) -> None:
    configured = with_remover(copy)
    made = Trellis2Engine(configured.model.model_copy(update={"low_vram": low_vram}))
    made.load(silent)
    image = Image.new("RGB", (90, 60), (9, 200, 9))
    image.paste((200, 10, 10), (30, 20, 60, 50))
    file = io.BytesIO()
    image.save(file, "PNG")
    cutout = pipeline.make_cutter(made, configured).cut_out(file.getvalue())
    assert cutout.background == "upstream"
    assert cutout.rgba.shape[:2] == (30, 30)
    assert cutout.rgba[..., 3].min() == 255
    make(made, cutout, options())
    made.unload()


def test_trellis2s_remover_is_not_loaded_unless_it_is_configured(
    loaded: Trellis2Engine,
) -> None:
    assert loaded._loaded is not None
    assert loaded._loaded.model.remover is None
    assert pipeline.make_cutter(loaded, Settings(model=settings("x")))._remover is None
    with pytest.raises(EngineError, match="not loaded"):
        loaded.remove_background(np.zeros((9, 9, 3), np.uint8))
