"""Checks `deploy/` and the documents against the server."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import GatedEngine
from trellis2_server.api.api_keys import ENVIRONMENT
from trellis2_server.api.app import create_app
from trellis2_server.inputs.images import Cutter
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from trellis2_server.api.metrics import Metrics

ROOT = Path(__file__).resolve().parents[1]
UNIT = (ROOT / "deploy" / "trellis2-server.service").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")
#: Version of systemd from which on the delay between restarts may grow.
RESTART_STEPS_SINCE = 254
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    program = "/opt/trellis2-server/.venv/bin/python"
    assert program in UNIT
    file = tmp_path / "trellis2-server.service"
    file.write_text(UNIT.replace(program, "/bin/sh"), encoding="utf-8")
    done = subprocess.run(
        [analyze, "verify", "--man=no", file], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if file.name in line]
    version = subprocess.run([analyze, "--version"], capture_output=True, text=True, check=True)
    if int(re.findall(r"\d+", version.stdout)[0]) < RESTART_STEPS_SINCE:
        said = [line for line in said if not re.search(r"'Restart(Steps|MaxDelaySec)'", line)]
    assert (done.returncode, said) == (0, [])


def test_supervisors_restart_the_server_however_often_it_fails() -> None:
    setting = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE))
    assert (setting["Restart"], setting["RestartPreventExitStatus"]) == ("on-failure", "2")
    assert setting["StartLimitIntervalSec"] == "0"
    assert "StartLimitBurst" not in setting
    assert 0 < int(setting["RestartSec"]) < int(setting["RestartMaxDelaySec"]) <= 60
    assert int(setting["RestartSteps"]) > 0
    assert re.findall(r"^ +restart: (.*)$", COMPOSE, re.MULTILINE) == ["on-failure"]


def test_the_image_is_built_from_pinned_sources() -> None:
    assert re.search(r"^ARG BASE=\S+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)
    revisions = re.findall(r"^ARG (\w+_REVISION)=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert all(re.fullmatch(r"[0-9a-f]{40}", revision) for _, revision in revisions)
    clones = re.findall(r"git clone .*?(https://\S+) (\S+)", DOCKERFILE)
    assert len(clones) == len(revisions) == 3
    for _, folder in clones:
        assert f"git -C {folder} checkout" in DOCKERFILE


def test_supervisors_wait_longer_than_the_grace_of_the_server() -> None:
    grace = Settings().server.shutdown_grace_seconds
    for text, pattern in ((UNIT, r"TimeoutStopSec=(\d+)"), (COMPOSE, r"stop_grace_period: (\d+)s")):
        found = re.search(pattern, text)
        assert found
        assert int(found[1]) > grace + 5


def test_the_files_that_the_image_copies_exist() -> None:
    for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE):
        for name in line.split():
            assert list(ROOT.glob(name)), name
    assert f"EXPOSE {Settings().server.port}" in DOCKERFILE
    assert f":{Settings().server.port}/healthcheck" in DOCKERFILE
    assert ENVIRONMENT in COMPOSE
    assert "NOT BUILT" in DOCKERFILE


def test_every_metric_is_in_the_documents() -> None:
    app = create_app(Settings(), GatedEngine(), Cutter())
    metrics: Metrics = app.state.metrics
    names = {family.name for family in metrics._registry.collect()}
    ours = {name for name in names if name.startswith("trellis2_")}
    assert len(ours) > 10
    text = OPERATIONS.replace("`…_sent_bytes_total`", "`trellis2_http_sent_bytes_total`")
    for name in ours:
        assert re.search(rf"`{name}(_total)?`", text), name


def test_every_setting_that_the_documents_name_is_one() -> None:
    for section, key in re.findall(r"`(server|worker|model|export)\.([a-z_]+)`", OPERATIONS):
        assert key in type(getattr(Settings(), section)).model_fields, key


def test_the_nginx_lines_close_what_they_open() -> None:
    for block in re.findall(r"```(?:nginx|caddy)\n(.*?)```", OPERATIONS, re.DOTALL):
        assert block.count("{") == block.count("}") > 0
