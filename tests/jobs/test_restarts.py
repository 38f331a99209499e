from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.server import fields, serving, settings, until
from trellis2_server.jobs import ages

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from tests.support.server import Server

RESTARTED = "the server was restarted"


@contextmanager
def on_disk(folder: Path, engine: GatedEngine | None = None, **manager: Any) -> Generator[Server]:
    """A server that keeps its results there, loaded; stopped at the end."""
    configured = settings(
        worker={"result_dir": str(folder), **manager}, server={"shutdown_grace_seconds": 0.1}
    )
    with serving(engine or GatedEngine(), configured) as server:
        server.wait_until_loaded()
        yield server


# ---- an orderly restart --------------------------------------------------------------------


def test_finished_jobs_are_served_again_by_every_name(tmp_path: Path) -> None:
    with on_disk(tmp_path) as server:
        made = server.generate(fields(texture=True))
        uid, image_hash = made.headers["X-Job-Id"], made.headers["X-Image-Hash"]
        shape = server.generate(fields())
        alias = server.client.post("/send", json=fields(texture=True)).json()["uid"]
        before = server.client.get(f"/jobs/{uid}").json()
        until(lambda: server.client.get(f"/jobs/{uid}").json()["can_export"], "kept")
        exported = server.client.post(f"/jobs/{uid}/export").content
        until(lambda: server.manager.archive.is_idle, "written")
        before = server.client.get(f"/jobs/{uid}").json()
    engine = GatedEngine()
    with on_disk(tmp_path, engine) as server:
        after = server.client.get(f"/jobs/{uid}").json()
        ages = ("created_at", "finished_at")
        assert {k: v for k, v in after.items() if k not in ages} == {
            k: v for k, v in before.items() if k not in ages
        }
        for age in ages:
            assert after[age] == pytest.approx(before[age], abs=0.01)
        assert server.generate(fields(texture=True)).content == made.content
        assert server.generate(fields()).content == shape.content
        assert server.texture(image_hash=image_hash).content == made.content
        assert server.texture(uid=alias).content == made.content
        hunyuan = server.status(alias)
        assert hunyuan["status"] == "completed"
        assert server.client.get(f"/jobs/{alias}/textured.glb").content == made.content
        assert server.client.get(f"/jobs/{uid}/input.png").content.startswith(b"\x89PNG")
        assert server.client.post(f"/jobs/{uid}/export").content == exported == made.content
        assert engine.calls == [("load", -1)]


def test_an_unfinished_job_reports_the_restart(tmp_path: Path) -> None:
    engine = GatedEngine("texture")
    with on_disk(tmp_path, engine) as server:
        uid = server.generate().headers["X-Job-Id"]
        alias = server.client.post("/send", json=fields(texture=True)).json()["uid"]
        engine.wait_for("texture")
        server.close_soon()
        until(server.manager._is_closed.is_set, "closed")
    with on_disk(tmp_path) as server:
        job = server.client.get(f"/jobs/{uid}").json()
        assert (job["status"], job["error"]) == ("error", RESTARTED)
        assert list(job["files"]) == ["input.png", "shape.glb"]
        failed = server.texture(uid=uid)
        assert failed.status_code == 500
        assert failed.json() == {"text": RESTARTED, "error_code": 1}
        assert server.status(alias) == {"status": "error", "message": RESTARTED}
        again = server.generate(fields(texture=True))
        assert again.is_success
        assert again.headers["X-Job-Id"] != uid


def test_a_texture_that_needs_engine_state_is_made_in_a_new_job(tmp_path: Path) -> None:
    with on_disk(tmp_path) as server:
        shape = server.generate(fields(texture=False))
        uid = shape.headers["X-Job-Id"]
        until(lambda: server.manager.archive.is_idle, "written")
    engine = GatedEngine()
    with on_disk(tmp_path, engine) as server:
        assert server.generate(fields(texture=False)).content == shape.content
        refused = server.texture(uid=uid)
        assert refused.status_code == 404
        assert "send the picture again" in refused.json()["text"]
        assert ("shape", 1) not in engine.calls
        again = server.generate(fields(texture=True))
        assert again.is_success
        assert again.headers["X-Job-Id"] != uid
        assert server.client.get(f"/jobs/{uid}/shape.glb").content == shape.content


def test_results_of_another_engine_do_not_match(tmp_path: Path) -> None:
    with on_disk(tmp_path) as server:
        uid = server.generate(fields(texture=True)).headers["X-Job-Id"]
        until(lambda: server.manager.archive.is_idle, "written")
    engine = GatedEngine(name="other")
    with on_disk(tmp_path, engine) as server:
        again = server.generate(fields(texture=True))
        assert again.headers["X-Job-Id"] != uid
        assert again.headers["X-Engine"] == "other"
        assert server.client.get(f"/jobs/{uid}").json()["engine"] == "gated"


def test_old_jobs_age_out_while_the_server_is_down(tmp_path: Path) -> None:
    with on_disk(tmp_path) as server:
        uid = server.generate(fields(texture=True)).headers["X-Job-Id"]
        until(lambda: server.manager.archive.is_idle, "written")
    with on_disk(tmp_path, job_max_age_seconds=1e-6) as server:
        assert server.client.get(f"/jobs/{uid}").status_code == 404
        until(lambda: server.manager.archive.is_idle, "written")
        assert not list((tmp_path / "files").iterdir())


def test_an_unreadable_record_affects_only_its_job(tmp_path: Path) -> None:
    with on_disk(tmp_path) as server:
        uids = [
            server.generate(fields(seed=seed, texture=True)).headers["X-Job-Id"] for seed in (1, 2)
        ]
        alias = server.client.post("/send", json=fields(seed=2, texture=True)).json()["uid"]
        until(lambda: server.manager.archive.is_idle, "written")
    with contextlib.closing(sqlite3.connect(tmp_path / "results.sqlite")) as database:
        database.execute("UPDATE jobs SET says = '{\"v\": 1}' WHERE uid = ?", (uids[0],))
        database.execute("UPDATE names SET says = 'no JSON' WHERE kind = 'ticket'")
        database.commit()
    with on_disk(tmp_path) as server:
        assert server.client.get(f"/jobs/{uids[0]}").status_code == 404
        assert server.client.get(f"/jobs/{alias}").status_code == 404
        assert server.client.get(f"/jobs/{uids[1]}/textured.glb").is_success
        until(lambda: server.manager.archive.is_idle, "written")
        assert not [path for path in (tmp_path / "files").iterdir() if uids[0] in path.name]


def test_a_key_still_sees_only_its_own_jobs(tmp_path: Path) -> None:
    keys = {"api_keys": ["one", "two"]}
    configured = settings(worker={"result_dir": str(tmp_path)}, server=keys)
    one, two = ({"X-API-Key": key} for key in keys["api_keys"])
    uid = ""
    for _ in range(2):
        engine = GatedEngine()
        with serving(engine, configured) as server:
            server.wait_until_loaded()
            body = fields(texture=True)
            made = server.client.post("/generate", json=body, headers=one)
            assert uid in {"", made.headers["X-Job-Id"]}
            uid = made.headers["X-Job-Id"]
            for path in (f"/jobs/{uid}", f"/jobs/{uid}/shape.glb"):
                assert server.client.get(path, headers=one).is_success
                assert server.client.get(path, headers=two).status_code == 404
                assert server.client.get(path).status_code == 401
            assert server.client.post(f"/jobs/{uid}/export", headers=two).status_code == 404
            until(lambda server=server: server.manager.archive.is_idle, "written")
    assert engine.calls == [("load", -1)]


# ---- a process that is killed --------------------------------------------------------------


class Killed:
    """A server process, and what it says of jobs."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.killed_server", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.client = httpx.Client(
            base_url=self.process.stdout.readline().strip(), timeout=PATIENCE_S
        )

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.client.close()


@pytest.mark.costly
def test_after_a_kill_at_any_moment_all_that_was_received_is_served(
    tmp_path: Path,
) -> None:
    chance = random.Random(6)  # noqa: S311 - the same moments each time
    made: dict[tuple[int, str], bytes] = {}
    #: Jobs by every name that a client has got, and whether it has got their textured model.
    uids: dict[str, bool] = {}
    survived = 0
    for _ in range(3):
        server = Killed(tmp_path)
        try:
            for uid, is_received in sorted(uids.items()):
                survived += check(server.client, uid, made, is_received=is_received)
            timer = threading.Timer(chance.uniform(0.02, 0.6), server.process.kill)
            work(server.client, chance, 0, made, uids)  # so that there is something to lose
            timer.start()
            with contextlib.suppress(httpx.TransportError):
                for shade in range(1, 1000):
                    work(server.client, chance, shade, made, uids)
            timer.join()
        finally:
            server.end()
    assert uids
    assert survived
    (tmp_path / "files" / "stray").write_bytes(b"")
    server = Killed(tmp_path)
    try:
        listed = [
            check(server.client, uid, made, is_received=is_received)
            for uid, is_received in sorted(uids.items())
        ]
        assert sum(listed) >= survived / 3
    finally:
        server.end()
    assert not [path for path in (tmp_path / "files").iterdir() if "~" in path.name]
    assert not (tmp_path / "files" / "stray").exists()


def work(
    client: httpx.Client,
    chance: random.Random,
    shade: int,
    made: dict[tuple[int, str], bytes],
    uids: dict[str, bool],
) -> None:
    """One more job, or the same as one before; what it gives is remembered."""
    seed = chance.randrange(40)
    if shade % 3 == 2:
        sent = client.post("/send", json=fields(seed=seed, texture=True)).json()["uid"]
        uids.setdefault(sent, False)
        return
    reply = client.post("/generate", json=fields(seed=seed, texture=True)).raise_for_status()
    uids[reply.headers["X-Job-Id"]] = True
    assert made.setdefault((seed, "textured.glb"), reply.content) == reply.content


def check(
    client: httpx.Client, uid: str, made: dict[tuple[int, str], bytes], *, is_received: bool
) -> int:
    """Whether the job has its texture, as it must if that was received; what is there is right."""
    reply = client.get(f"/jobs/{uid}")
    job: dict[str, Any] = reply.raise_for_status().json()
    assert job["status"] == "completed" or job["error"] == RESTARTED
    for name, about in job["files"].items():
        content = client.get(f"/{about['url']}").raise_for_status().content
        assert len(content) == about["bytes"]
        assert made.setdefault((job["seed"], name), content) == content
    assert job["status"] == "error" or "textured.glb" in job["files"]
    assert job["status"] == "completed" or not is_received
    return int("textured.glb" in job["files"])


def test_a_job_that_was_asked_for_before_a_restart_ages_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ages, "RECORD_INTERVAL_S", 0.0)
    with on_disk(tmp_path) as server:
        uids = [server.generate(fields(seed=seed)).headers["X-Job-Id"] for seed in (1, 2)]
        until(lambda: server.manager.is_idle, "idle")
        assert server.client.get(f"/jobs/{uids[0]}").is_success
        until(lambda: server.manager.archive.is_idle, "written")
    with contextlib.closing(sqlite3.connect(tmp_path / "results.sqlite")) as database:
        names = database.execute("SELECT uid FROM names WHERE kind = 'used'").fetchall()
        assert names == [(uids[0],)]
        for uid, text in database.execute("SELECT uid, says FROM jobs").fetchall():
            record = json.loads(text)
            record |= {name: record[name] - 4000 for name in ("created", "finished")}
            del record["crc32"]
            database.execute("UPDATE jobs SET says = ? WHERE uid = ?", (json.dumps(record), uid))
        database.commit()
    with on_disk(tmp_path, job_max_age_seconds=3600) as server:
        statuses = [server.client.get(f"/jobs/{uid}").status_code for uid in uids]
        assert statuses == [200, 404]
