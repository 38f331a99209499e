from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import shapes
from tests.support.atlases import texels
from trellis2_server.export.unwrap import unwrap
from trellis2_server.mesh import Mesh


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
