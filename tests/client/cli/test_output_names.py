"""Names of output files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from trellis2_server.client import UsageError
from trellis2_server.client.cli.output_names import (
    PLACEHOLDERS,
    read_file_type,
    read_output_names,
)
from trellis2_server.client.options import EXTENSIONS


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
        ("a/{stem}_{seed:03.1f}", True, "a/photo_7.0.glb"),
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
        ("gltf_zip", ("a.gltf.zip", "a_shape.gltf.zip", "a_thumbnail.png")),
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


@pytest.mark.parametrize("file_type", [*EXTENSIONS])
@pytest.mark.parametrize("start", ["a", "out/{stem}", "v1.2/a"])
def test_the_suffix_of_the_output_selects_the_file_type(start: str, file_type: Any) -> None:
    suffix = f".{EXTENSIONS[file_type]}"
    for output in (start + suffix, start + suffix.upper()):
        assert read_file_type(output, None, 1) == file_type
        assert read_file_type(output, file_type, 1) == file_type
        other: Any = "ply" if file_type == "stl" else "stl"
        with pytest.raises(UsageError) as caught:
            read_file_type(output, other, 1)
        said = f"--output {output}: does not match --type {other}, whose files end in .{other}"
        assert str(caught.value) == said
        names = read_output_names(output, [Path("a.png")], file_type, kinds=["model"])
        assert str(names.path("model", {"stem": "a"})) == output.replace("{stem}", "a")


@pytest.mark.parametrize("file_type", [None, "ply"])
@pytest.mark.parametrize("output", [None, "a", "out/", "v1.2/a", "{stem}.{seed}", "a.", ".stl"])
def test_an_output_without_a_suffix_leaves_the_file_type(
    output: str | None, file_type: Any
) -> None:
    assert read_file_type(output, file_type, 1) == file_type


def test_a_zip_may_have_gltf_files_if_the_type_says_so() -> None:
    assert read_file_type("a.zip", "gltf_zip", 1) == "gltf_zip"
    names = read_output_names("a.zip", [Path("b.png")], "gltf_zip", kinds=["model"])
    assert names.path("shape", {"stem": "b"}) == Path("a_shape.zip")
    with pytest.raises(UsageError, match=r"whose files end in \.gltf\.zip or \.zip$"):
        read_file_type("a.glb", "gltf_zip", 1)


@pytest.mark.parametrize("output", ["a.fbx", "{stem}.gltf", "out/a_1.5"])
def test_an_unknown_suffix_is_refused(output: str) -> None:
    suffix = "." + output.rpartition(".")[2]
    with pytest.raises(UsageError) as caught:
        read_file_type(output, None, 1)
    assert str(caught.value).startswith(f"--output {output}: {suffix} is not the suffix of a file")
    assert all(f".{each}" in str(caught.value) for each in EXTENSIONS.values())
    with pytest.raises(UsageError, match="does not match --type glb, whose files end in"):
        read_file_type(output, "glb", 1)


def test_one_file_for_several_pictures_is_refused_unless_it_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is one file, and there are 2 pictures.*'{stem}\.stl'$"):
        read_file_type("all.stl", None, 2)
    folder = tmp_path / "all.stl"
    folder.mkdir()
    for output in ("all.stl/", str(folder), "v1.2"):
        assert read_file_type(output, None, 2) is None


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
