from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.trellis2_engine import (
    HOME,
    STANDIN,
    make,
    options,
    picture,
    same,
    settings,
    silent,
)
from trellis2_server.engines.trellis2 import Trellis2Engine
from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path


#: Patches with the same bits, which are the default.
EXACT = ["modulation", "sequences", "timesteps", "guidance", "condition"]


def test_an_engine_that_is_not_loaded_says_so_and_can_be_loaded_again(checkpoint: Path) -> None:
    made = Trellis2Engine(settings(checkpoint))
    with pytest.raises(EngineError, match="not loaded"):
        made.shape(picture(), options(), silent)
    made.load(silent)
    first = make(made, picture(), options())
    made.unload()
    with pytest.raises(EngineError, match="not loaded"):
        made.shape(picture(), options(), silent)
    made.load(silent)
    assert same(first, make(made, picture(), options()))


def test_fields_of_the_preview_engine_are_warned_of(loaded: Trellis2Engine) -> None:
    plain = loaded.shape(picture(), options(), silent)
    deep = loaded.shape(picture(), options(depth=0.5, back="fill"), silent)
    assert plain.warnings == ()
    assert [warning.split(": ")[0] for warning in deep.warnings] == ["depth", "back"]
    assert all("preview engine" in warning for warning in deep.warnings)
    assert (plain.mesh.vertices == deep.mesh.vertices).all()


def test_the_description_is_plain_json(loaded: Trellis2Engine) -> None:
    said = json.loads(json.dumps(loaded.describe()))
    assert said["device"] == "cpu"
    assert set(said["extensions"]) == {"flash_attn", "flex_gemm", "o_voxel", "cumesh"}
    assert said["low_vram"] is False
    assert said["patches"] == ([] if HOME == STANDIN else EXACT)
