from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.background_packages import needs_pooch
from trellis2_server.inputs.background.model_files import (
    FileProblem,
    ModelFile,
    find_kind,
    model_files,
    model_folders,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def hashed(algorithm: str, content: bytes) -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()}"


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_file_is_missing_whole_or_damaged(tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / "model.onnx"
    file = ModelFile(path, "http://127.0.0.1/", hashed(algorithm, b"whole"))
    states: list[str | None] = []
    for content in (None, b"whole", b"who", b"WHOLE"):
        if content is not None:
            path.write_bytes(content)
        problem = file.problem()
        states.append(problem and problem.state)
    assert states == ["missing", None, "damaged", "damaged"]
    assert ModelFile(path, None, None).problem() is None


def test_a_file_that_another_server_moves_away_meanwhile_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _: True)  # as it was a moment before
    file = ModelFile(tmp_path / "model.onnx", "http://127.0.0.1/", hashed("md5", b"whole"))
    problem = file.problem()
    assert problem
    assert problem.state == "missing"
    assert file.digest() is None


@pytest.mark.parametrize("value", [None, {}, {"file_name": 1}, {"state": "missing"}])
def test_a_problem_survives_json_and_nothing_else_is_one(value: object) -> None:
    problem = FileProblem("model.onnx", "damaged", can_be_fetched=False)
    assert FileProblem.from_json(problem.to_json()) == problem
    with pytest.raises(ValueError, match="no problem"):
        FileProblem.from_json(value)


def kind_of(download: Callable[[Any], object], folder: Path) -> Any:
    return type(
        "Kind",
        (),
        {
            "name": classmethod(lambda _: "m"),
            "u2net_home": classmethod(lambda _: str(folder)),
            "resolve_existing": classmethod(
                lambda _, name: str(folder / name) if (folder / name).exists() else None
            ),
            "download_models": classmethod(download),
        },
    )


@needs_pooch
def test_the_files_of_a_model_are_found_without_a_download(tmp_path: Path) -> None:
    import pooch

    def download(kind: Any) -> object:
        if kind.resolve_existing("encoder.onnx"):
            return None
        for name, known_hash in (("encoder", "md5:AB"), ("decoder", "cd"), ("odd", "xxh:1")):
            pooch.retrieve("http://a/" + name, known_hash, f"{name}.onnx", str(tmp_path / "new"))
        raise OSError("what is done with the files fails, because they are not there")

    (tmp_path / "encoder.onnx").touch()
    retrieve = pooch.retrieve
    assert model_files(kind_of(download, tmp_path)) == [
        ModelFile(tmp_path / "encoder.onnx", "http://a/encoder", "md5:ab"),
        ModelFile(tmp_path / "new" / "decoder.onnx", "http://a/decoder", "sha256:cd"),
        ModelFile(tmp_path / "new" / "odd.onnx", "http://a/odd", None),
    ]
    assert pooch.retrieve is retrieve


@needs_pooch
def test_a_model_that_is_converted_from_another_one_is_not_converted_by_looking(
    tmp_path: Path,
) -> None:
    def download(kind: Any) -> object:
        import onnx  # pyright: ignore[reportMissingImports]

        raise AssertionError(onnx, kind)

    before = sys.modules.get("onnx")
    assert model_files(kind_of(download, tmp_path)) == [ModelFile(tmp_path / "m.onnx", None, None)]
    assert sys.modules.get("onnx") is before


@needs_pooch
def test_a_file_that_is_said_by_nothing_is_looked_for_where_rembg_finds_it(tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.mkdir()
    (found / "m.onnx").touch()
    kind = kind_of(lambda _: None, found)
    kind.u2net_home = classmethod(lambda _: str(tmp_path))
    assert model_files(kind) == [ModelFile(found / "m.onnx", None, None)]


def test_models_may_lie_in_the_folders_of_rembg_and_where_links_lead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("U2NET_HOME", "REMBG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    home = Path.home()
    assert set(model_folders()) >= {str(home / ".u2net"), str(home / ".rembg")}
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert set(model_folders()) == {str(tmp_path / ".u2net"), str(tmp_path / "rembg")}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "model.onnx").touch()
    (tmp_path / "home" / "models").mkdir(parents=True)
    (tmp_path / "home" / "models" / "link.onnx").symlink_to(tmp_path / "data" / "model.onnx")
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "home"))
    assert set(model_folders()) >= {
        str(tmp_path / "home"),
        str((tmp_path / "data" / "model.onnx").resolve()),
    }


@needs_pooch
@pytest.mark.parametrize("name", ["isnet-general-use", "u2net", "silueta", "u2net_cloth_seg"])
def test_the_installed_rembg_says_where_its_models_come_from(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    monkeypatch.delenv("MODEL_CHECKSUM_DISABLED", raising=False)
    (file,) = model_files(find_kind(name))
    assert file.path.name == f"{name}.onnx"
    assert file.path.is_relative_to(tmp_path)
    assert file.url
    assert file.url.startswith("https://")
    assert file.known_hash
    monkeypatch.setenv("MODEL_CHECKSUM_DISABLED", "1")
    (file,) = model_files(find_kind(name))
    assert file.known_hash is None
