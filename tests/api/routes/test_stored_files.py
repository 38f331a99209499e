"""The stored files of jobs: deletion, size limit, damage."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import GatedEngine
from tests.support.server import fields, serving, settings, until

if TYPE_CHECKING:
    from pathlib import Path

    import httpx


def test_a_deleted_job_leaves_no_files(tmp_path: Path) -> None:
    with serving(GatedEngine(), settings(worker={"result_dir": str(tmp_path)})) as server:
        server.wait_until_loaded()
        uid = server.generate(fields(texture=True)).headers["X-Job-Id"]
        until(lambda: server.is_idle, "everything is stored")
        assert len(list((tmp_path / "files").iterdir())) == 5
        assert server.client.delete(f"/jobs/{uid}").status_code == 204
        until(lambda: server.is_idle, "written")
        assert not list((tmp_path / "files").iterdir())
        assert server.client.get(f"/jobs/{uid}/shape.glb").status_code == 404
        assert server.manager.archive.size == 0


def test_with_a_result_folder_finished_files_are_not_held_in_memory(tmp_path: Path) -> None:
    with serving(GatedEngine(), settings(worker={"result_dir": str(tmp_path)})) as server:
        server.wait_until_loaded()
        made = [server.generate(fields(seed=seed, texture=True)) for seed in range(5)]
        until(lambda: server.is_idle, "written")
        archive = server.manager.archive
        assert not archive.unwritten_bytes
        assert not archive._evictable.size
        on_disk = sum(path.stat().st_size for path in (tmp_path / "files").iterdir())
        assert archive.size == on_disk > sum(len(reply.content) for reply in made)
        for seed, reply in enumerate(made):
            assert server.generate(fields(seed=seed, texture=True)).content == reply.content


def test_above_the_size_limit_the_job_that_finished_first_is_deleted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configured = settings(worker={"result_dir": str(tmp_path), "max_result_bytes": 2**26})
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        first = server.generate(fields(seed=1, texture=True)).headers["X-Job-Id"]
        until(lambda: server.is_idle, "everything is stored")
        one = server.manager.archive.size
        # Such small jobs take far less than the smallest limit that can be configured.
        monkeypatch.setattr(server.manager.results, "_max_bytes", one * 5 // 2)
        later = []
        for seed in (2, 3):
            later.append(server.generate(fields(seed=seed, texture=True)).headers["X-Job-Id"])
            until(lambda: server.is_idle, "everything is stored")
        assert server.client.get(f"/jobs/{first}").status_code == 404
        assert all(server.client.get(f"/jobs/{uid}").is_success for uid in later)
        names = {path.name.partition("-shape")[0] for path in (tmp_path / "files").iterdir()}
        assert not any(first in name for name in names)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_file_is_not_served_but_generated_again(tmp_path: Path, damage: str) -> None:
    engine = GatedEngine()
    with serving(engine, settings(worker={"result_dir": str(tmp_path)})) as server:
        server.wait_until_loaded()
        made = server.generate(fields(texture=True))
        uid = made.headers["X-Job-Id"]
        until(lambda: server.is_idle, "everything is stored")
        path = tmp_path / "files" / f"{uid}-textured.glb"
        if damage == "gone":
            path.unlink()
        else:
            content = bytearray(path.read_bytes())
            content[100] ^= 1
            path.write_bytes(content[: -1 if damage == "cut" else None])
        again = server.generate(fields(texture=True))
        assert again.headers["X-Job-Id"] != uid
        assert _digest(again) == _digest(made)
        assert engine.calls.count(("shape", 1)) == 2
        lost = server.client.get(f"/jobs/{uid}/textured.glb")
        assert lost.status_code == 404
        known = server.client.get(f"/jobs/{uid}").json()
        assert known["status"] == "error"
        assert known["error"].startswith("textured.glb ")
        assert list(known["files"]) == ["input.png", "shape.glb"]
        assert server.client.get(f"/jobs/{uid}/shape.glb").is_success


def test_a_failing_result_folder_is_reported_by_healthcheck_and_does_not_stop_jobs(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "results"
    folder.write_bytes(b"in the way")
    with serving(GatedEngine(), settings(worker={"result_dir": str(folder)})) as server:
        server.wait_until_loaded()
        made = server.generate(fields(texture=True))
        assert made.is_success
        notes = server.client.get("/healthcheck").json()["notes"]
        assert any("worker.result_dir fails" in note for note in notes)
        assert str(tmp_path) not in str(notes)
        uid = made.headers["X-Job-Id"]
        assert server.client.get(f"/jobs/{uid}/textured.glb").content == made.content
        sent = server.client.post("/send", json=fields(texture=True)).json()["uid"]
        assert server.status(sent)["status"] == "completed"


def _digest(reply: httpx.Response) -> str:
    return hashlib.sha256(reply.content).hexdigest()
