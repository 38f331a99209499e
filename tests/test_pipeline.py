from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.server import SMALL, picture, settings
from trellis2_server import pipeline
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.errors import ConfigError
from trellis2_server.inputs.images import Cutter
from trellis2_server.parameters import read_options
from trellis2_server.settings import ModelSettings, Settings


def models(engine: pipeline.Engine, seen: list[tuple[str, int, int]]) -> list[bytes]:
    def report(*progress: Any) -> None:
        seen.append(progress)

    cutout = Cutter(background="none").cut_out(picture())
    options = read_options({"seed": 3, **SMALL}, Settings())
    return list(pipeline.make_model(engine, cutout, options, settings().export, report))


def asset(glb: bytes) -> dict[str, Any]:
    size = struct.unpack_from("<I", glb, 12)[0]
    return json.loads(glb[20 : 20 + size])["asset"]


@pytest.mark.parametrize("engine", [GatedEngine(), PreviewEngine()])
def test_a_picture_becomes_two_files_that_name_the_engine(engine: pipeline.Engine) -> None:
    pipeline.load(engine, lambda *_: None)
    seen: list[tuple[str, int, int]] = []
    glbs = models(engine, seen)
    assert len(glbs) == 2
    for glb in glbs:
        assert f"({engine.name} engine)" in asset(glb)["generator"]
    assert all(0 <= step <= steps for _, step, steps in seen)
    assert models(engine, []) == glbs  # same picture, same options, same bytes


def test_a_report_that_raises_ends_the_model_at_that_step() -> None:
    class StopError(Exception):
        pass

    def report(stage: str, *_: int) -> None:
        if stage == "texture":
            raise StopError

    cutout = Cutter(background="none").cut_out(picture())
    options = read_options({"seed": 3, **SMALL}, Settings())
    made = pipeline.make_model(GatedEngine(), cutout, options, settings().export, report)
    assert next(made)
    with pytest.raises(StopError):
        next(made)


def test_the_configured_engine_is_chosen_with_a_warning_for_the_preview() -> None:
    engine, warnings = pipeline.choose_engine(settings(model={"engine": "preview"}))
    assert (engine.name, warnings) == ("preview", ())
    engine, warnings = pipeline.choose_engine(settings(model={"engine": "auto", "device": "cpu"}))
    assert engine.name == "preview"
    assert "model.device" in warnings[0]
    engine, warnings = pipeline.choose_engine(settings(model={"engine": "trellis2"}))
    assert (engine.name, warnings) == ("trellis2", ())


@pytest.mark.parametrize(
    ("engine", "export", "faces", "texture_size"),
    [
        ("trellis2", {}, 1_000_000, 4096),
        ("preview", {}, 100_000, 2048),
        ("preview", {"glb_texture_size": 4096, "glb_decimation_target": 1_000_000}, 100_000, 2048),
        ("preview", {"glb_texture_size": 1024}, 100_000, 1024),
        ("preview", {"glb_decimation_target": 2_000_000}, 2_000_000, 2048),
        ("preview", {"remesh": True, "max_texture_size": 8192}, 100_000, 2048),
    ],
)
def test_previews_are_lighter_where_the_operator_keeps_the_defaults(
    engine: str, export: dict[str, Any], faces: int, texture_size: int
) -> None:
    given = Settings.model_validate({"export": export})
    made = pipeline.with_engine_defaults(given, engine)
    options = read_options({}, made)
    assert (options.decimation_target, options.texture_size) == (faces, texture_size)
    assert made.export.model_copy(
        update={
            "glb_decimation_target": given.export.glb_decimation_target,
            "glb_texture_size": given.export.glb_texture_size,
        }
    ) == given.export  # fmt: skip
    wanted = {"decimation_target": 200_000, "texture_size": 8192}
    options = read_options(wanted, made)
    assert (options.decimation_target, options.texture_size) == (200_000, 8192)


@pytest.mark.parametrize("field", ["remesh", "solid"])
def test_both_files_of_a_remeshed_model_have_the_same_shell(field: str) -> None:
    cutout = Cutter(background="none").cut_out(picture())
    options = read_options({"seed": 3, field: True, **SMALL}, Settings())
    engine = GatedEngine()
    glbs = list(pipeline.make_model(engine, cutout, options, settings().export, lambda *_: None))
    faces = [asset(glb)["extras"]["faces"] for glb in glbs]
    # The engine's cube has 12: a solid already.
    assert faces[0] == faces[1]
    assert (faces[0] == 12) == (field == "solid")
    for glb in glbs:
        extras = asset(glb)["extras"]
        assert (extras["remesh"], extras.get("solid", False)) == (True, field == "solid")


@pytest.mark.parametrize(
    "changes", [{"model": {"background": "upstream"}}, {"export": {"backend": "upstream"}}]
)
def test_the_preview_cannot_use_parts_of_trellis2(changes: dict[str, dict[str, str]]) -> None:
    preview = {"model": {"engine": "preview", **changes.pop("model", {})}, **changes}
    with pytest.raises(ConfigError, match=r"upstream needs TRELLIS\.2"):
        pipeline.choose_engine(Settings.model_validate(preview))
    automatic = Settings(model=ModelSettings(device="cpu", background="upstream"))
    engine, warnings = pipeline.choose_engine(automatic)
    assert engine.name == "preview"
    assert warnings
    assert pipeline.make_cutter(engine, automatic).cut_out(picture()).background != "upstream"


@pytest.mark.parametrize(
    ("engine", "faces", "is_said"),
    [(PreviewEngine(), 500, False), (PreviewEngine(), 1_000_000, True), (GatedEngine(), 500, True)],
)
def test_a_normal_map_of_no_finer_surface_is_said(
    engine: pipeline.Engine,
    faces: int,
    is_said: bool,  # noqa: FBT001 - a parameter of the cases
) -> None:
    """The preview makes a finer surface than asked for; the other engine's has twelve faces."""
    cutout = Cutter(background="none").cut_out(picture())
    asked = {"seed": 3, **SMALL, "normal_map": True, "decimation_target": faces}
    options = read_options(asked, Settings())
    shape = pipeline.make_shape(engine, cutout, options, lambda *_: None)
    geometry = pipeline.prepare_shape(shape, options, lambda *_: None)
    told = (
        f"normal_map: the model has {len(geometry.mesh.faces):,} faces and the full surface "
        f"{len(shape.mesh.faces):,}, so the map shows nothing finer; ask for fewer faces"
    )
    assert geometry.warnings == ((told,) if is_said else ())
