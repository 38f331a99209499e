from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.trellis2_engine import edit_pipeline, load, load_error

if TYPE_CHECKING:
    from pathlib import Path


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "ckpts" / "tex_slat_decoder.safetensors").unlink()
    assert "tex_slat_decoder.safetensors" in load_error(copy)


def test_a_pipeline_without_a_section_is_an_error(copy: Path) -> None:
    edit_pipeline(copy, lambda args: args.pop("tex_slat_normalization"))
    assert "lacks tex_slat_normalization" in load_error(copy)


def test_the_image_encoder_can_be_another_folder(copy: Path) -> None:
    edit_pipeline(
        copy, lambda args: args["image_cond_model"]["args"].update(model_name="gated/encoder")
    )
    assert "gated/encoder is not on this machine" in load_error(copy)
    load(copy, image_encoder="image_encoder")


@pytest.mark.usefixtures("packages")
def test_a_model_path_that_is_neither_folder_nor_repository_is_an_error() -> None:
    assert "no folder" in load_error("nowhere")
    assert "not on this machine" in load_error("nobody/nothing-of-this-name")
