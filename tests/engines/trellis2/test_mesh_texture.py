from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.support.trellis2_engine import (
    HOME,
    STANDIN,
    CancelledError,
    cone,
    load,
    make,
    needs_checkout,
    options,
    picture,
    silent,
    texturing_of,
)
from trellis2_server.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from trellis2_server.engines.trellis2 import Trellis2Engine


def test_a_mesh_is_textured_at_the_resolution_of_the_pipeline_type(loaded: Trellis2Engine) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}

    def report(stage: str, step: int, steps: int) -> None:
        seen.setdefault(stage, []).append((step, steps))

    fields = [
        loaded.texture_mesh(cone(), picture(), options(kind), report)
        for kind in ("512", "1024_cascade")
    ]
    assert [field.resolution for field in fields] == [512, 1024]
    assert 3 < len(fields[1].coords) / len(fields[0].coords) < 5
    assert list(seen) == ["condition", "texture", "decode"]
    for stage in seen.values():
        assert stage[: len(stage) // 2] == [(i, stage[0][1]) for i in range(stage[0][1] + 1)]
    centres = (fields[0].coords + 0.5) / 512 - 0.5
    away = 0.98 * np.hypot(*centres.T[:2]) + 0.48 * (centres[:, 2] - 0.49 * 0.09)
    on_floor = np.abs(centres[:, 2] + 0.49 * 0.09) < 2 / 512
    assert (on_floor | (np.abs(away) < 3 / 512)).all()
    assert fields[0].attributes.shape == (len(fields[0].coords), 6)


def test_the_back_of_a_mesh_is_warned_of(loaded: Trellis2Engine) -> None:
    field = loaded.texture_mesh(cone(), picture(), options(back="mirror"), silent)
    (warning,) = field.warnings
    assert warning.startswith("back: ")


def test_a_mesh_gets_the_same_texture_after_cancels_and_other_jobs(
    loaded: Trellis2Engine,
) -> None:
    reports: list[str] = []
    first = loaded.texture_mesh(
        cone(), picture(), options(), lambda stage, *_: reports.append(stage)
    )
    other = loaded.texture_mesh(cone(), picture(90), options(seed=8), silent)
    assert not np.array_equal(first.attributes, other.attributes)
    for last in range(0, len(reports), 1 if HOME == STANDIN else 5):
        left = iter(range(last))

        def report(stage: str, step: int, steps: int, left: Any = left) -> None:
            if next(left, None) is None:
                raise CancelledError(f"{stage} {step} {steps}")

        with pytest.raises(CancelledError):
            loaded.texture_mesh(cone(), picture(), options(seed=9), report)
        hooks = [m._forward_pre_hooks for m in texturing_of(loaded).models.values()]
        assert not any(hooks)
    make(loaded, picture(), options())
    again = loaded.texture_mesh(cone(), picture(), options(), silent)
    assert np.array_equal(first.coords, again.coords)
    assert np.array_equal(first.attributes, again.attributes)


@needs_checkout
@pytest.mark.parametrize("pipeline_type", ["512", "1024_cascade"])
def test_a_mesh_gets_what_trellis2s_own_run_gives(
    loaded: Trellis2Engine, pipeline_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimesh = pytest.importorskip("trimesh", reason="TRELLIS.2's own run takes its meshes")
    requested, mesh = options(pipeline_type), cone()
    field = loaded.texture_mesh(mesh, picture(), requested, silent)
    pipeline = texturing_of(loaded)
    # Its rotation from Y up to Z up and its GLB are left out.
    x, y, z = mesh.vertices.astype(np.float64).T
    module = sys.modules["trellis2.pipelines.trellis2_texturing"]
    monkeypatch.setattr(module, "trimesh", trimesh)
    monkeypatch.setattr(type(pipeline), "postprocess_mesh", lambda *args: args[2])
    monkeypatch.setattr(type(pipeline), "preprocess_mesh", lambda _, given: given)
    voxels = pipeline.run(
        trimesh.Trimesh(np.stack([x, y, z], axis=1), mesh.faces, process=False),
        Image.fromarray(picture().rgb),
        seed=requested.seed,
        tex_slat_sampler_params={
            "steps": requested.tex.sampling_steps,
            "guidance_strength": requested.tex.guidance_scale,
        },
        preprocess_image=False,
        resolution=field.resolution,
    )
    assert np.array_equal(field.coords, voxels.coords[:, 1:].numpy())
    assert np.array_equal(field.attributes, voxels.feats.numpy())


def test_without_a_mesh_encoder_a_mesh_is_an_error_that_names_it(copy: Path) -> None:
    (copy / "texturing_pipeline.json").unlink()
    made = load(copy)
    make(made, picture(), options())
    with pytest.raises(InputError, match=r"^mesh: .* has no shape_slat_encoder"):
        made.texture_mesh(cone(), picture(), options(), silent)
    made.unload()
