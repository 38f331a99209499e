from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.trellis2_engine import edit_weights, load_error
from trellis2_server.engines.trellis2.safetensors_header import read_header
from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path


def safetensors_bytes(shapes: dict[str, list[int]]) -> bytes:
    """A file of zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


@given(
    shapes=st.dictionaries(
        st.text("ab._é", min_size=1, max_size=8),
        st.lists(st.integers(0, 4), max_size=3),
        max_size=4,
    ),
    share=st.floats(0, 1, exclude_max=True),
)
def test_a_header_is_read_as_written_and_any_truncation_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, list[int]], share: float
) -> None:
    file = tmp_path_factory.mktemp("header") / "x.safetensors"
    content = safetensors_bytes(shapes)
    file.write_bytes(content)
    assert read_header(file) == {name: tuple(shape) for name, shape in shapes.items()}
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(EngineError, match=r"x\.safetensors"):
        read_header(file)


def test_a_truncated_file_is_named(copy: Path) -> None:
    file = copy / "ckpts" / "shape_slat_decoder.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "shape_slat_decoder.safetensors is truncated" in load_error(copy)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"version lfs"])
def test_a_file_that_is_not_safetensors_is_named(copy: Path, content: bytes) -> None:
    (copy / "ckpts" / "shape_slat_decoder.safetensors").write_bytes(content)
    assert "shape_slat_decoder.safetensors is not a safetensors file" in load_error(copy)


def test_a_truncated_image_encoder_is_named(copy: Path) -> None:
    file = copy / "image_encoder" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    text = load_error(copy, image_encoder="image_encoder")
    assert text.startswith("the image encoder: ")
    assert "model.safetensors is truncated" in text


def test_a_missing_tensor_is_named_instead_of_left_random(copy: Path) -> None:
    file = copy / "ckpts" / "shape_slat_flow_model_512.safetensors"
    edit_weights(file, lambda tensors: tensors.pop("out_layer.weight"))
    assert "shape_slat_flow_model_512 lacks out_layer.weight" in load_error(copy)


def test_a_tensor_of_another_shape_is_named(copy: Path, torch: Any) -> None:
    file = copy / "ckpts" / "tex_slat_flow_model_512.safetensors"
    edit_weights(file, lambda t: t.update({"out_layer.bias": torch.zeros(3)}))
    assert "another shape of out_layer.bias" in load_error(copy)
