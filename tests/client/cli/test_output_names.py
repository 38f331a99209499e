"""Names of output files."""

from __future__ import annotations

from pathlib import Path

import pytest

from trellis2_server.client import UsageError
from trellis2_server.client.cli.output_names import PLACEHOLDERS, read_output_names


@pytest.mark.parametrize(
    ("output", "several", "expected"),
    [
        (None, False, "photo.glb"),
        ("model.glb", False, "model.glb"),
        ("model", False, "model.glb"),
        ("v1.2/model", False, "v1.2/model.glb"),
        ("out", True, "out/photo.glb"),
        ("out/", False, "out/photo.glb"),
        ("{odd", True, None),
        ("{name}", True, None),
        ("{}", True, None),
        ("{stem.__class__}", True, None),
        ("{index:q}", True, None),
        ("a/{stem}_{index:03d}_{seed}.glb", True, "a/photo_001_7.glb"),
        ("{uid}", True, "u.glb"),
        ("{hash}.bin", True, None),
    ],
)
def test_a_file_is_named_by_the_output_argument(
    output: str | None,
    several: bool,  # noqa: FBT001 - a parameter of the test
    expected: str | None,
) -> None:
    pictures = [Path("photo.jpg"), Path("b.jpg")][: 1 + several]
    values = {"stem": "photo", "index": 1, "seed": 7, "uid": "u", "hash": "h"}
    assert set(values) == set(PLACEHOLDERS)
    if expected is None:
        with pytest.raises(UsageError):
            read_output_names(output, pictures, "glb", kinds=["model"])
    else:
        names = read_output_names(output, pictures, "glb", kinds=["model"])
        assert names.path("model", values) == Path(expected)


def test_no_file_overwrites_another_one_or_a_picture() -> None:
    both = [Path("a/photo.jpg"), Path("b/photo.jpg")]
    with pytest.raises(UsageError, match="index"):
        read_output_names(None, both, "glb", kinds=["model"])
    assert read_output_names("{stem}_{index}", both, "glb", kinds=["model"])
    assert read_output_names("{stem}_{uid}", both, "glb", kinds=["model"])
    with pytest.raises(UsageError, match="overwritten"):
        read_output_names(
            "photo", [Path("photo_thumbnail.png")], "glb", kinds=["model", "thumbnail"]
        )
