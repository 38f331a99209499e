from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.background_packages import (
    MODEL,
    NAME,
    Origin,
    model_path,
    needs_pooch,
    stand_in_packages,
)
from tests.support.server import until
from trellis2_server.errors import EngineError, MissingPackageError
from trellis2_server.inputs.background import FetchState, fetch, fetcher
from trellis2_server.inputs.background.fetcher import ModelFetcher
from trellis2_server.inputs.background.model_files import ModelFile

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = needs_pooch


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Origin]:
    with stand_in_packages(tmp_path, monkeypatch) as origin:
        yield origin


def files(folder: Path) -> set[str]:
    """Files of the model's folder."""
    path = model_path(folder)
    return {file.name for file in path.parent.iterdir()} if path.parent.exists() else set()


def test_a_file_is_fetched_once_and_readable_by_others(tmp_path: Path, origin: Origin) -> None:
    for _ in range(2):
        ModelFetcher().fetch(NAME)
    assert origin.downloads == 1
    assert model_path(tmp_path).read_bytes() == MODEL
    assert files(tmp_path) == {f"{NAME}.onnx"}
    if os.name == "posix":
        assert model_path(tmp_path).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("content", [MODEL[:-1], b""])
def test_a_download_that_is_another_file_is_refused(
    tmp_path: Path, origin: Origin, content: bytes
) -> None:
    origin.content = content
    with pytest.raises(EngineError, match="not the file that rembg expects"):
        ModelFetcher().fetch(NAME)
    assert not files(tmp_path)


def test_without_a_network_the_error_has_a_reason_and_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: Origin
) -> None:
    del origin
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(EngineError, match=r"could not be downloaded \(the proxy cannot be used\)$"):
        ModelFetcher().fetch(NAME)
    assert not files(tmp_path)


def test_a_download_that_is_cut_short_or_refused_is_named(tmp_path: Path, origin: Origin) -> None:
    origin.cut_at = 1000
    with pytest.raises(EngineError, match=r"could not be downloaded \(cut short\)$"):
        ModelFetcher().fetch(NAME)
    origin.cut_at, origin.status = None, 404
    with pytest.raises(EngineError, match=r"could not be downloaded \(status 404\)$"):
        ModelFetcher().fetch(NAME)
    assert not files(tmp_path)


def test_a_fetch_tells_how_far_it_is(tmp_path: Path, origin: Origin) -> None:
    del tmp_path
    states: list[FetchState] = []
    has_begun = threading.Event()

    def note(state: FetchState) -> None:
        states.append(state)
        if state.done_bytes > 0:
            has_begun.set()

    following = ModelFetcher(on_state=note)
    assert following.state is None
    origin.may_end.clear()
    with ThreadPoolExecutor(1) as threads:
        fetch = threads.submit(following.fetch, NAME)
        assert has_begun.wait(120)
        assert following.state is not None
        assert following.state.state == "fetching"
        origin.may_end.set()
        fetch.result(60)
    assert states[0] == FetchState(NAME, "checking")
    assert states[1] == FetchState(NAME, "fetching", f"{NAME}.onnx", 0, len(MODEL))
    done = [state.done_bytes for state in states[1:]]
    assert done == sorted(done)
    whole = FetchState(NAME, "fetching", f"{NAME}.onnx", len(MODEL), len(MODEL))
    assert states[-2:] == [whole, replace(whole, state="ready")]
    following.fetch(NAME)
    assert following.state == FetchState(NAME, "ready")
    origin.content = b"wrong"
    model_path(Path(os.environ["U2NET_HOME"]).parent).unlink()
    with pytest.raises(EngineError):
        following.fetch(NAME)
    assert following.state.state == "failed"
    assert "not the file that rembg expects" in (following.state.error or "")


def test_two_threads_of_one_server_fetch_a_file_once(origin: Origin) -> None:
    shared = ModelFetcher()
    origin.may_end.clear()
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(shared.fetch, NAME) for _ in range(2)]
        assert origin.reached.wait(120)
        origin.may_end.set()
        for each in both:
            each.result(120)
    assert origin.downloads == 1


def test_a_folder_that_cannot_be_written_is_an_engine_error(tmp_path: Path, origin: Origin) -> None:
    del origin
    (tmp_path / "home").touch()
    with pytest.raises(EngineError, match="could not be downloaded"):
        ModelFetcher().fetch(NAME)


def test_two_servers_fetch_a_damaged_file_at_once(tmp_path: Path, origin: Origin) -> None:
    path = model_path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    origin.may_end.clear()
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(ModelFetcher().fetch, NAME) for _ in range(2)]
        until(lambda: origin.downloads == 2, "two downloads", patience_s=120)
        origin.may_end.set()
        for each in both:
            each.result(60)
    assert path.read_bytes() == MODEL
    assert path.with_name(f"{path.name}.damaged").read_bytes() == b"damaged"
    assert files(tmp_path) == {path.name, f"{path.name}.damaged"}


def test_a_file_that_another_server_has_just_put_there_is_not_set_aside(tmp_path: Path) -> None:
    whole, damaged = tmp_path / "a.onnx", tmp_path / "a.onnx.damaged"
    digest = f"sha256:{hashlib.sha256(MODEL).hexdigest()}"
    for content in (MODEL, b"damaged again"):
        whole.write_bytes(content)
        damaged.write_bytes(b"damaged")
        fetch._set_aside(ModelFile(whole, None, digest), digest)
        left = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        if content == MODEL:
            assert left == {"a.onnx": MODEL, "a.onnx.damaged": b"damaged"}
        else:
            assert left == {"a.onnx.damaged": content}


def test_closing_ends_a_download_and_leaves_nothing(tmp_path: Path, origin: Origin) -> None:
    origin.may_end.clear()
    running = ModelFetcher()
    with ThreadPoolExecutor(1) as threads:
        fetch = threads.submit(running.fetch, NAME)
        assert origin.reached.wait(120)
        running.close()
        with pytest.raises(EngineError, match="its process ended early"):
            fetch.result(60)
    assert not files(tmp_path)
    with pytest.raises(EngineError, match="could not be fetched"):
        running.fetch(NAME)
    assert origin.downloads == 1


def test_a_download_that_takes_too_long_is_ended(tmp_path: Path, origin: Origin) -> None:
    origin.may_end.clear()
    with pytest.raises(EngineError, match="could not be fetched within 3 s"):
        ModelFetcher(timeout_s=3).fetch(NAME)
    assert not files(tmp_path)


def test_a_download_ends_with_a_server_that_is_killed(tmp_path: Path, origin: Origin) -> None:
    origin.may_end.clear()
    code = (
        "from trellis2_server.inputs.background.fetcher import ModelFetcher\n"
        f"ModelFetcher().fetch({NAME!r})\n"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert origin.reached.wait(120)
    until(lambda: bool(files(tmp_path)), "the download has begun")
    server.kill()
    server.wait()
    until(lambda: not files(tmp_path), "what was not finished is removed")


def test_leftovers_of_killed_downloads_are_removed(tmp_path: Path, origin: Origin) -> None:
    del origin
    path = model_path(tmp_path)
    path.parent.mkdir(parents=True)
    old, new = (path.with_name(f".{NAME}.onnx.{each}.part") for each in ("old", "new"))
    for part in (old, new):
        part.touch()
    os.utime(old, (0, 0))
    ModelFetcher().fetch(NAME)
    assert files(tmp_path) == {path.name, new.name}


@pytest.mark.costly
def test_what_is_wrong_with_a_model_is_said_without_a_download(
    tmp_path: Path, origin: Origin
) -> None:
    path = model_path(tmp_path)
    states: list[str | None] = []
    for content in (None, MODEL[:9], MODEL):
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        problem = ModelFetcher().inspect(NAME)
        states.append(problem and problem.state)
    assert states == ["missing", "damaged", None]
    assert origin.downloads == 0
    with pytest.raises(EngineError, match="rembg has no background model 'unknown'"):
        ModelFetcher().inspect("unknown")


def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: Origin
) -> None:
    del origin
    (tmp_path / "packages" / "onnxruntime" / "__init__.py").unlink()
    (tmp_path / "packages" / "onnxruntime").rmdir()
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = "
        "lambda name, *more: None if name == 'onnxruntime' else real(name, *more)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingPackageError, match="onnxruntime is not installed"):
        ModelFetcher().fetch(NAME)


def test_the_process_gets_proxies_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("TRELLIS2_SERVER_API_KEYS", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    variables = fetcher.environment()
    assert variables["https_proxy"] == "http://proxy:3128"
    assert "secret" not in variables.values()
