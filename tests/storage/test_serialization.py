from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from trellis2_server.errors import StoreError
from trellis2_server.storage.serialization import deserialize_arrays, serialize_arrays

anything = st.sampled_from([np.int32, np.float32, np.uint8]).flatmap(
    lambda dtype: arrays_of.arrays(
        dtype, arrays_of.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=9)
    )
)


@given(st.dictionaries(st.text(max_size=5), anything, max_size=4))
def test_arrays_are_restored_bit_for_bit(arrays: dict[str, np.ndarray]) -> None:
    found, metadata = deserialize_arrays(serialize_arrays(arrays, {"resolution": 7}))
    assert metadata == {"resolution": 7}
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()  # NaN and -0 too


def test_a_surface_becomes_much_smaller() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij"), -1).reshape(-1, 3)
    coords = grid.astype(np.int32)
    assert len(serialize_arrays({"coords": coords})) < coords.nbytes / 50


@pytest.mark.parametrize("cut", [0, 3, 7, 40, -1])
def test_truncated_bytes_are_refused(cut: int) -> None:
    content = serialize_arrays({"a": np.arange(1000, dtype=np.int32)}, {})
    with pytest.raises(StoreError):
        deserialize_arrays(content[:cut])


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(StoreError):
        deserialize_arrays(b"T2A1" + content)
