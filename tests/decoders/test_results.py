"""Results of decoders are checked before they are used: a file may have taken a decoder over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trellis2_server.decoders.objects import DecoderFinder, checked_pixels
from trellis2_server.decoders.pictures import decode_image
from trellis2_server.decoders.process import Decoded
from trellis2_server.errors import InputError
from trellis2_server.inputs.images.loading import MAX_SIZE_PX
from trellis2_server.reports import no_check


class Decoders:
    """Returns a result, whatever is asked; notes what is."""

    def __init__(self, meta: dict[str, Any], **arrays: Any) -> None:
        self.result = Decoded(meta, arrays)
        self.calls: list[tuple[Any, ...]] = []

    def call(self, task: str, content: Any, arguments: Any, **named: Any) -> Decoded:
        self.calls.append((task, bytes(content), dict(arguments), named))
        return self.result


META = {"has_alpha": False, "warnings": ["small"], "pixels": 12}


def decode(meta: dict[str, Any], **arrays: Any) -> Any:
    decoders: Any = Decoders(meta, **arrays)
    decoded = decode_image(decoders, b"file", max_pixels=100, check=no_check)
    assert decoders.calls[0][:3] == ("decode_image", b"file", {"max_pixels": 100})
    assert decoders.calls[0][3]["result_bytes"] == MAX_SIZE_PX * MAX_SIZE_PX * 4
    return decoded


@pytest.mark.parametrize(
    "size", [(1, 1), (4, 4), (3, 5), (5, 3), (1, MAX_SIZE_PX), (MAX_SIZE_PX, 1)]
)
def test_a_picture_of_any_allowed_size_is_taken(size: tuple[int, int]) -> None:
    decoded = decode(META, rgba=np.zeros((*size, 4), np.uint8))
    assert decoded.image.size == size[::-1]
    assert (decoded.has_alpha, decoded.warnings) == (False, ("small",))


@pytest.mark.parametrize(
    ("meta", "shape", "dtype"),
    [
        (META, (0, 4, 4), np.uint8),
        (META, (4, 0, 4), np.uint8),
        (META, (1, MAX_SIZE_PX + 1, 4), np.uint8),
        (META, (MAX_SIZE_PX + 1, 1, 4), np.uint8),
        (META, (4, 4, 3), np.uint8),
        (META, (4, 4), np.uint8),
        (META, (4, 4, 4), np.float32),
        ({**META, "has_alpha": 1}, (4, 4, 4), np.uint8),
        ({**META, "warnings": 7}, (4, 4, 4), np.uint8),
        ({**META, "pixels": "7"}, (4, 4, 4), np.uint8),
        ({}, (4, 4, 4), np.uint8),
    ],
    ids=range(11),
)
def test_any_other_result_is_refused(meta: Any, shape: tuple[int, ...], dtype: Any) -> None:
    with pytest.raises(InputError, match=r"^image: .*invalid result"):
        decode(meta, rgba=np.zeros(shape, dtype))
    with pytest.raises(InputError, match="invalid result"):
        decode(meta, other=np.zeros(shape, dtype))


def test_the_pixels_of_an_object_have_the_size_that_was_asked_for() -> None:
    rgb = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    outline = np.full((2, 3), 200, np.uint8)
    rgba = np.zeros((2, 3, 4), np.uint8)
    decoders: Any = Decoders({}, rgba=rgba)
    found = DecoderFinder(decoders).apply_outline(rgb, outline, "mask", no_check)  # type: ignore[arg-type]
    assert found is rgba
    task, content, arguments, named = decoders.calls[0]
    assert (task, content) == ("apply_outline", rgb.tobytes() + outline.tobytes())
    assert arguments == {"height": 2, "width": 3, "kind": "mask"}
    assert named["result_bytes"] == 24
    for wrong in (None, np.zeros((3, 2, 4), np.uint8), np.zeros((2, 3, 4), np.float32)):
        with pytest.raises(InputError, match="invalid result"):
            checked_pixels(wrong, (2, 3, 4))
