from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.mutation.selection import ROOMS, NearbyTests, files_of_room, recent_files, room_of

if TYPE_CHECKING:
    from pathlib import Path

FILES = {
    "trellis2_server/__init__.py": "",
    "trellis2_server/jobs/__init__.py": "",
    "trellis2_server/jobs/queue.py": "import asyncio",
    "trellis2_server/jobs/manager.py": "from trellis2_server.jobs.queue import StepQueue",
    "trellis2_server/jobs/program.py": "",
    "trellis2_server/api/__init__.py": "from trellis2_server.api.app import create_app",
    "trellis2_server/api/app.py": "from trellis2_server.jobs.manager import JobManager",
    "trellis2_server/export/kernels/__init__.py": "import importlib",
    "trellis2_server/export/kernels/bake.py": "",
    "tests/support/managers.py": "from trellis2_server.jobs.manager import JobManager",
    "tests/jobs/test_queue.py": "",
    "tests/jobs/test_manager.py": "from tests.support.managers import make",
    "tests/jobs/test_direct.py": "from trellis2_server.jobs import queue",
    "tests/jobs/test_queue_of_steps.py": "from tests.support.managers import make",
    "tests/api/test_app.py": "from trellis2_server.api import create_app",
    "tests/api/test_queue_position.py": "from tests.support.managers import make",
    "tests/test_steps.py": "from trellis2_server.jobs.queue import StepQueue",
    "tests/ray_serve/test_deployment.py": "from trellis2_server.jobs.queue import StepQueue",
    "tests/export/test_bake.py": "from trellis2_server.export import kernels",
    "tests/export/test_other.py": "from trellis2_server.export import kernels",
    "tests/export/test_recorded.py": "from trellis2_server.export import kernels",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_mirrored_file_is_first_then_those_named_like_it_then_those_with_fewer_imports(
    root: Path,
) -> None:
    assert NearbyTests(root).nearest("trellis2_server/jobs/queue.py") == [
        "tests/jobs/test_queue.py",
        "tests/jobs/test_queue_of_steps.py",
        "tests/jobs/test_direct.py",
        "tests/jobs/test_manager.py",
        "tests/test_steps.py",
        "tests/api/test_queue_position.py",
        "tests/api/test_app.py",
    ]


def test_a_file_that_is_started_as_a_program_has_the_tests_of_its_folder(root: Path) -> None:
    found = NearbyTests(root).nearest("trellis2_server/jobs/program.py")
    assert set(found) == {
        f"tests/jobs/test_{name}.py" for name in ("queue", "queue_of_steps", "direct", "manager")
    }


def test_modules_that_a_package_imports_by_name_are_found(root: Path) -> None:
    found = NearbyTests(root).nearest("trellis2_server/export/kernels/bake.py")
    assert found == [f"tests/export/test_{name}.py" for name in ("bake", "recorded", "other")]


def test_files_belong_to_rooms(root: Path) -> None:
    assert room_of("trellis2_server/jobs/queue.py") == "jobs"
    assert room_of("trellis2_server/engines/preview/sheets.py") == "engines/preview"
    assert room_of("trellis2_server/settings.py") == ""
    assert "trellis2_server/jobs/queue.py" in files_of_room(root, "jobs")
    assert len(set(ROOMS)) == len(ROOMS)


def test_the_files_of_the_last_commits_come_first(root: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)

    git("init")
    for name in ("first", "second", "first"):
        (root / name).write_text(str((root / name).exists()))
        git("add", name)
        git("commit", "-m", name)
    assert recent_files(root) == ["first", "second"]
    assert recent_files(root, "HEAD~1") == ["first"]
