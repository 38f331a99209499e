from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trellis2_engine import CancelledError, OtherMachine
from trellis2_server.engines.trellis2 import hub as hub_files
from trellis2_server.engines.trellis2.hub import DownloadProgress, HubFile
from trellis2_server.settings import ModelSettings

if TYPE_CHECKING:
    from collections.abc import Mapping


def test_a_checkpoint_is_downloaded_once_and_then_found_offline(hub: Any, tmp_path: Path) -> None:
    machine = OtherMachine(tmp_path, hub.url)
    assert "not on this machine" in machine.find(offline=True)[0]
    found, reports = machine.find()
    assert len(found) == 9
    assert all(str(machine.cache) in path for path in found)
    stages = [report[0] for report in reports]
    assert set(stages) == {"download"}
    assert len(stages) == 2 + 2 * 9 + 1
    assert reports[-1][1] == reports[-1][2] >= 1
    assert [r[1] for r in reports] == sorted(r[1] for r in reports)
    requests = len(hub.requests)
    assert machine.find(offline=True)[0] == found
    assert machine.find(revision="c" * 40, offline=True)[0] == found
    assert len(hub.requests) == requests
    assert "not on this machine" in machine.find(revision="b" * 40, offline=True)[0]
    assert "no such revision (model.revision)" in machine.find(revision="b" * 40)[0]


@pytest.mark.parametrize("repository", hub_files.PINNED_COMMITS)
def test_the_default_checkpoints_repositories_are_pinned_to_commits(repository: str) -> None:
    commit = hub_files.PINNED_COMMITS[repository]
    assert re.fullmatch(r"[0-9a-f]{40}", commit)
    located = hub_files.locate(repository, "a/file", offline=False)
    assert located == HubFile(repository, "a/file", commit)
    chosen = hub_files.locate(repository, "a/file", "v2", offline=False)
    assert chosen == HubFile(repository, "a/file", "v2")


def test_the_default_model_is_pinned_and_others_are_not() -> None:
    assert ModelSettings().model_path in hub_files.PINNED_COMMITS
    located = hub_files.locate("some/model", "a/file", offline=False)
    assert located == HubFile("some/model", "a/file", None)


@pytest.mark.parametrize(
    ("in_cache", "revision"),
    [({"main", "pinned"}, "pinned"), ({"main"}, None), ({"pinned"}, "pinned"), (set(), "pinned")],
)
def test_offline_a_copy_of_the_default_branch_serves_if_there_is_none_of_the_commit(
    monkeypatch: pytest.MonkeyPatch, in_cache: set[str], revision: str | None
) -> None:
    monkeypatch.setattr(hub_files, "PINNED_COMMITS", {"some/model": "pinned"})

    def cached(files: Mapping[str, HubFile]) -> dict[str, Path]:
        return {
            key: Path(key) for key, file in files.items() if (file.revision or "main") in in_cache
        }

    monkeypatch.setattr(hub_files, "cached", cached)
    located = hub_files.locate("some/model", "a/file", offline=True)
    assert located == HubFile("some/model", "a/file", revision)


def test_the_pinned_commit_is_downloaded_and_then_found_offline(hub: Any, tmp_path: Path) -> None:
    hub.folders["microsoft/TRELLIS.2-4B"] = hub.folders["some/model"]
    hub.commits["microsoft/TRELLIS.2-4B"] = hub_files.PINNED_COMMITS["microsoft/TRELLIS.2-4B"]
    machine = OtherMachine(tmp_path, hub.url)
    found, _ = machine.find(model_path="microsoft/TRELLIS.2-4B")
    assert len(found) == 9
    commit = hub_files.PINNED_COMMITS["microsoft/TRELLIS.2-4B"]
    assert any(f"/resolve/{commit}/" in request for request in hub.requests)
    assert not any("TRELLIS.2-4B/resolve/main/" in request for request in hub.requests)
    assert machine.find(model_path="microsoft/TRELLIS.2-4B", offline=True)[0] == found


def test_a_gated_encoder_is_named_before_any_weights_are_downloaded(
    hub: Any, tmp_path: Path
) -> None:
    hub.gated.add("gated/encoder")
    machine = OtherMachine(tmp_path, hub.url)
    text, _ = machine.find()
    assert "gated/encoder is gated: accept its terms at" in text
    assert not any("safetensors" in request for request in hub.requests if "resolve" in request)
    findings, _ = machine.find(inspects=True)
    assert ["encoder", "error"] in [finding[:2] for finding in findings]
    hub.folders["free/encoder"] = hub.folders["gated/encoder"]
    found, _ = machine.find(image_encoder="free/encoder")
    assert "free--encoder" in found[-1]


def test_a_gated_remover_is_named_before_any_weights_are_downloaded(
    hub: Any, tmp_path: Path
) -> None:
    hub.folders["briaai/RMBG-2.0"] = hub.folders["gated/encoder"]
    hub.gated.add("briaai/RMBG-2.0")
    text, _ = OtherMachine(tmp_path, hub.url).find(background="upstream")
    assert "briaai/RMBG-2.0 is gated: accept its terms at" in text
    assert "model.background to rembg" in text
    assert not any("safetensors" in request for request in hub.requests)


@pytest.mark.usefixtures("packages")
def test_a_large_download_reports_at_intervals_and_can_be_cancelled() -> None:
    seen: list[tuple[str, int, int]] = []

    def report(stage: str, step: int, steps: int) -> None:
        seen.append((stage, step, steps))
        if step > 40:
            raise CancelledError

    progress = DownloadProgress(report, 100)
    with progress.bar_class()(total=100 * 2**20, name="x") as bar:
        for _ in range(9):
            bar.update(4 * 2**20)
        assert seen == [("download", 16, 100), ("download", 32, 100)]
        with pytest.raises(CancelledError) as caught:
            bar.update(20 * 2**20)
    assert progress.raised is caught.value


def test_a_missing_file_or_repository_is_named(hub: Any, tmp_path: Path) -> None:
    machine = OtherMachine(tmp_path, hub.url)
    (hub.folders["other/decoder"] / "ckpts" / "sparse_structure_decoder.safetensors").unlink()
    assert "other/decoder lacks a file" in machine.find()[0]
    del hub.folders["other/decoder"]
    assert "the Hugging Face Hub has no other/decoder" in machine.find()[0]


@pytest.mark.parametrize(
    ("code", "message", "says"),
    [
        (
            401,
            "Invalid credentials in Authorization header",
            "does not accept this machine's token",
        ),
        (403, "Please enable access to public gated repositories", "give the token access"),
        (503, "", "the Hub answered 503"),
    ],
)
def test_a_refused_token_becomes_an_instruction(
    hub: Any, tmp_path: Path, code: int, message: str, says: str
) -> None:
    machine = OtherMachine(tmp_path, hub.url)
    hub.refused["gated/encoder"] = (code, message)
    text, _ = machine.find()
    assert text.startswith("gated/encoder could not be downloaded: ")
    assert says in text
    findings, _ = machine.find(inspects=True)
    assert isinstance(findings, list)
    errors = [(what, text) for what, level, text in findings if level == "error"]
    assert [what for what, _ in errors] == ["checkpoint", "encoder"]
    assert all(says in text for _, text in errors)


def test_a_hub_that_cannot_be_reached_is_an_error_with_a_cause(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="needs torch and what goes with it")
    text, _ = OtherMachine(tmp_path, "http://127.0.0.1:9").find()
    assert text.startswith("some/model could not be downloaded: ")
    assert "is the Hub reachable from here?" in text
