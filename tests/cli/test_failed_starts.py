"""Starts of the server that fail: exit codes and messages."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.server_command import ENTRY, configured
from trellis2_server.storage.disk_store import DiskStore

if TYPE_CHECKING:
    from pathlib import Path


def test_a_port_in_use_is_logged_and_ends_the_process(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, ENTRY, "--config", configured(tmp_path), "--host", "127.0.0.1",
             "--port", str(port)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 3
    said = (
        f"Cannot listen on 127.0.0.1:{port}: address already in use; choose another with --port\n"
    )
    assert done.stderr.endswith(said)
    assert "Traceback" not in done.stderr


def test_an_address_of_another_machine_is_logged_without_a_hint_about_the_port(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, ENTRY, "--config", configured(tmp_path), "--host", "192.0.2.1"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert re.search(r"Cannot listen on 192\.0\.2\.1:8082: [^;\[]+$", done.stderr.strip())


def test_a_wrong_file_stops_the_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ENTRY, "--config", configured(tmp_path, server={"prot": 1})],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "config.json: server.prot: unknown key; known here: host, port" in done.stderr


def test_a_second_server_on_a_folder_of_results_is_refused_in_one_line(tmp_path: Path) -> None:
    manager = {"result_dir": str(tmp_path / "results")}
    first = DiskStore(tmp_path / "results")
    first.claim()
    try:
        second = subprocess.run(
            [sys.executable, ENTRY, "--config", configured(tmp_path, worker=manager)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        first.close()
    assert second.returncode == 2
    assert "is in use by another server" in second.stderr.splitlines()[-1]
    assert "Traceback" not in second.stderr
