"""Names of output files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(
    ("file_type", "names"),
    [
        ("glb", ("a.glb", "a_shape.glb", "a_thumbnail.png")),
        ("ply", ("a.ply", "a_shape.ply", "a_thumbnail.png")),
        ("obj_zip", ("a.zip", "a_shape.obj", "a_thumbnail.png")),
    ],
)
def test_each_kind_of_file_has_its_ending(file_type: Any, names: tuple[str, ...]) -> None:
    found = read_output_names(None, [Path("a.png")], file_type, kinds=["model"])
    values = {"stem": "a"}
    kinds: list[Any] = ["model", "shape", "thumbnail"]
    assert [found.path(kind, values) for kind in kinds] == [Path(name) for name in names]


def test_a_folder_that_exists_and_a_name_with_braces_are_taken_as_they_are(
    tmp_path: Path,
) -> None:
    odd = tmp_path / "a}b"
    odd.mkdir()
    names = read_output_names(str(odd), [Path("one.png")], "glb", kinds=["model"])
    assert names.path("model", {"stem": "one"}) == odd / "one.glb"
    file = read_output_names(str(odd / "x}.bin"), [Path("one.png")], "glb", kinds=["model"])
    assert file.path("model", {"stem": "one"}) == odd / "x}.bin"


@pytest.mark.parametrize(
    ("output", "path"),
    [("{stem}", "one.glb"), ("{stem}.{seed}", "one.7.glb"), ("{stem}.ply", "one.ply")],
)
def test_a_pattern_may_have_a_suffix(output: str, path: str) -> None:
    names = read_output_names(output, [Path("one.png")], "glb", kinds=["model"])
    assert names.path("model", {"stem": "one", "seed": 7}) == Path(path)


def test_a_message_says_what_is_wrong_with_a_pattern() -> None:
    known = re.escape("{stem}, {index}, {seed}, {uid}, {hash}")
    with pytest.raises(UsageError, match=rf"^--output {{name}}: {{name}} is not one of {known}$"):
        read_output_names("{name}", [Path("a")], "glb", kinds=["model"])
    pictures = [Path("a/x.png"), Path("b/x.png")]
    message = r"a.x\.png and b.x\.png would both be written to x\.glb; use \{index\} in"
    with pytest.raises(UsageError, match=message):
        read_output_names(None, pictures, "glb", kinds=["model"])
    same = "{stem}{stem}"
    with pytest.raises(UsageError, match="both be written"):
        read_output_names(same, pictures, "glb", kinds=["model"])
    third = [Path("a.png"), Path("b.png"), Path("c/a.png")]
    with pytest.raises(UsageError, match=r"^a\.png and c.a\.png would"):
        read_output_names(None, third, "glb", kinds=["model"])


def test_a_mesh_is_not_overwritten() -> None:
    with pytest.raises(UsageError, match=r"^one\.glb: would be overwritten; choose another"):
        read_output_names(None, [Path("one.png")], "glb", kinds=["model"], mesh=Path("one.glb"))
