from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import shapes
from tests.support.atlases import texels
from trellis2_server.errors import TooLargeError
from trellis2_server.export import packing as module
from trellis2_server.export.unwrap import unwrap
from trellis2_server.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Callable


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_charts_of_any_size_are_packed_without_overlaps(data: st.DataObject) -> None:
    sizes = data.draw(
        st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=1, max_size=30)
    )
    parts = [
        Mesh(
            np.array([[0, i, 0], [w, i, 0], [w, i, h], [0, i, h]], np.float32),
            np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        )
        for i, (w, h) in enumerate(sizes)
    ]
    atlas = unwrap(shapes.joined(*parts), 256)
    assert texels(atlas).max() <= 1
    # No texel is touched by two charts.
    owner = np.full((256, 256), -1)
    for face, chart in zip(atlas.uv[atlas.faces], atlas.chart, strict=True):
        low, high = np.floor(face.min(0)).astype(int), np.ceil(face.max(0)).astype(int)
        there = owner[low[1] : high[1], low[0] : high[0]]
        assert set(np.unique(there)) <= {-1, chart}
        there[:] = chart


def largest(heights: Callable[[float], int], packings: int = 3) -> tuple[Any, list[float]]:
    """The scale that is found for charts that need these rows of 100, and those that were tried."""
    tried: list[float] = []

    def attempt(scale: float) -> tuple[int, Any]:
        tried.append(scale)
        return heights(scale), np.int32([[len(tried), 0, 0]])

    found = module._largest(attempt, 1.0, 100, packings)
    if found is not None:
        assert tried[found[1][0, 0] - 1] == found[0]  # its own placement
    return found and found[0], tried


def test_the_largest_scale_is_searched_in_a_number_of_packings() -> None:
    # There is always more room: each is eight percent larger.
    found, tried = largest(lambda _: 10)
    assert tried == pytest.approx([1, 1.08, 1.08**2, 1.08**3])
    assert found == tried[-1]
    # None but the first one fits: halves of the way to it.
    found, tried = largest(lambda scale: 10 if scale <= 1 else -1)
    assert tried == pytest.approx([1, 1.08, 1.04, 1.02])
    assert found == 1
    # With more packings, it ends where the gain would be under 0.4 percent.
    found, tried = largest(lambda scale: 10 if scale <= 1 else 101, packings=20)
    assert tried == pytest.approx([1, 1.08, 1.04, 1.02, 1.01, 1.005])


def test_a_packing_that_fills_its_square_is_the_last_one() -> None:
    found, tried = largest(lambda _: 99)
    assert (found, tried) == (1, [1])
    found, tried = largest(lambda scale: round(95 * scale**2), packings=20)
    assert 1 < found <= np.sqrt(100 / 95) * 1.003
    assert len(tried) < 20


def test_what_does_not_fit_becomes_smaller_until_it_does_or_not_at_all() -> None:
    found, tried = largest(lambda scale: 100 if scale < 0.4 else -1)
    assert found == tried[-1] < 0.4
    assert tried[:5] == pytest.approx([1, 0.93, 0.93**2, 0.93**3, 0.7 * 0.93**3])
    found, tried = largest(lambda _: 400)
    assert (found, len(tried)) == (None, 40)
    assert tried[1] == 0.5  # by the excess of rows


@pytest.mark.parametrize(
    ("size_px", "most"), [(63, 1024), (64, 1056), (2047, 1_048_576), (2048, 466_944)]
)
def test_more_charts_than_texels_with_their_gaps_are_refused_before_they_are_made(
    size_px: int, most: int
) -> None:
    module.check_chart_count(most, size_px)
    with pytest.raises(TooLargeError, match=f"^texture_size: {most + 1} charts do not fit"):
        module.check_chart_count(most + 1, size_px)
