"""Results of TRELLIS.2's own `run` with patches and without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.patched_runs import REQUESTED, run, same_bits, use
from tests.support.trellis2_engine import (
    TYPES,
    load,
    make,
    needs_checkout,
    picture,
    pipeline_of,
    write_checkpoint,
)
from trellis2_server.engines.trellis2 import patches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trellis2_server.engines.trellis2 import Trellis2Engine

pytestmark = needs_checkout

EXACT = tuple(patch.name for patch in patches.PATCHES if patch.is_exact)
ALL = tuple(patch.name for patch in patches.PATCHES)
#: Largest difference that rounding may make in the small model in float32, relative to the
#: largest number; measured: 2e-7 for latents, 1.3e-6 for vertices and colours.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def unpatched(loaded: Trellis2Engine) -> dict[str, dict[str, Any]]:
    """Results of upstream's own functions, for each pipeline type."""
    patches.remove()
    results = {name: run(pipeline_of(loaded), name, ()) for name in TYPES}
    patches.install(choice=True)
    return results


@pytest.fixture
def restored(loaded: Trellis2Engine) -> Iterator[None]:
    """The patches of the settings again, after a test."""
    yield
    use(pipeline_of(loaded), EXACT)


@pytest.mark.parametrize("pipeline_type", TYPES)
def test_the_exact_patches_together_change_no_bit(
    loaded: Trellis2Engine, unpatched: dict[str, dict[str, Any]], pipeline_type: str
) -> None:
    found = run(pipeline_of(loaded), pipeline_type, EXACT)
    assert len(found["faces"]) > 100
    assert same_bits(found, unpatched[pipeline_type])


# These two types sample all five models.
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("pipeline_type", ["512", "1024_cascade"])
def test_each_exact_patch_alone_changes_no_bit(
    loaded: Trellis2Engine, unpatched: dict[str, dict[str, Any]], pipeline_type: str, name: str
) -> None:
    assert same_bits(run(pipeline_of(loaded), pipeline_type, (name,)), unpatched[pipeline_type])


@pytest.mark.parametrize("pipeline_type", TYPES)
def test_all_patches_differ_by_rounding_only(
    loaded: Trellis2Engine, unpatched: dict[str, dict[str, Any]], pipeline_type: str
) -> None:
    found, expected = run(pipeline_of(loaded), pipeline_type, ALL), unpatched[pipeline_type]
    assert not same_bits(found, expected)  # the patch was in use
    for name, values in expected.items():
        assert found[name].shape == values.shape
        if not values.is_floating_point():
            assert (found[name] == values).all()
        else:
            assert (found[name] - values).abs().max() <= TOLERANCE * values.abs().max()


@pytest.mark.parametrize("names", [(), EXACT])
@pytest.mark.parametrize("pipeline_type", TYPES)
@pytest.mark.usefixtures("restored")
def test_the_engine_equals_the_unpatched_run(
    loaded: Trellis2Engine,
    unpatched: dict[str, dict[str, Any]],
    pipeline_type: str,
    names: tuple[str, ...],
) -> None:
    use(pipeline_of(loaded), names)
    shape, field = make(loaded, picture(), REQUESTED(pipeline_type))
    expected = unpatched[pipeline_type]
    # run() closes small holes at the end: rows follow after those of the voxels.
    vertices, faces = expected["vertices"].numpy(), expected["faces"].numpy()
    assert shape.resolution == int(expected["resolution"])
    assert np.array_equal(shape.mesh.vertices, vertices[: len(shape.mesh.vertices)])
    assert np.array_equal(shape.mesh.faces, faces[: len(shape.mesh.faces)])
    assert np.array_equal(field.coords, expected["coords"].numpy())
    assert np.array_equal(field.attributes, expected["attributes"].numpy())


def test_in_half_precision_the_exact_patches_change_no_bit(tmp_path: Path) -> None:
    made = load(write_checkpoint(tmp_path, dtype="bfloat16", use_fp16=True))
    expected = run(pipeline_of(made), "1024_cascade", ())
    assert same_bits(run(pipeline_of(made), "1024_cascade", EXACT), expected)
    made.unload()
