from __future__ import annotations

import pytest

from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.meshes.scene import (
    MAX_FACES,
    MAX_NODES,
    MAX_VERTICES,
    check_count,
    check_size,
)


@pytest.mark.parametrize("value", [None, True, -1, 1.0, "1", []])
def test_only_whole_numbers_are_counts(value: object) -> None:
    with pytest.raises(InputError, match="not valid"):
        check_count(value)
    assert check_count(3, 3) == 3
    with pytest.raises(InputError):
        check_count(2, 3)


def test_each_limit_is_named() -> None:
    check_size(MAX_VERTICES, MAX_FACES, MAX_NODES)
    for sizes, name in (
        ((MAX_VERTICES + 1, 0, 0), "vertices"),
        ((0, MAX_FACES + 1, 0), "faces"),
        ((0, 0, MAX_NODES + 1), "nodes"),
    ):
        with pytest.raises(TooLargeError, match=f"over the limit of [0-9]+ {name}"):
            check_size(*sizes)
