from __future__ import annotations

import numpy as np
import pytest

from trellis2_server.export.chunks import byte_chunks


@pytest.mark.parametrize("count", [0, 1, 87_381, 87_382, 300_000])
def test_an_array_of_any_size_is_copied_in_chunks_of_a_mebibyte(count: int) -> None:
    array = np.arange(3 * count, dtype=np.uint32).reshape(count, 3)
    chunks = byte_chunks(array)
    assert b"".join(chunks) == array.tobytes()
    assert all(len(chunk) <= 1 << 20 for chunk in chunks)
