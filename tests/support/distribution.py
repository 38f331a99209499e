"""A pytest plugin: how `-n auto` distributes the tests among processes.

A file's tests stay together, since they share servers and browsers. The longest files come first:
one that came last would keep one process at work while the others have nothing left to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bench.record import cores

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

#: Processes for which there is enough to do where one waits: with more, the longest file decides.
MOST_WAITING = 8
#: Files that take longer than seven seconds on two cores, longest first.
LONG = (
    "tests/hostile/test_attacks.py",
    "tests/jobs/test_job_states.py",
    "tests/page/test_generation.py",
    "tests/decoders/test_server_process.py",
    "tests/jobs/test_job_model.py",
    "tests/hostile/test_mutations.py",
    "tests/cli/test_serve.py",
    "tests/decoders/test_process.py",
    "tests/page/test_viewer.py",
    "tests/page/test_recovery.py",
    "tests/page/test_accessibility.py",
    "tests/export/test_interruption.py",
    "tests/inputs/meshes/test_costly_files.py",
    "tests/storage/test_disk_faults.py",
    "tests/decoders/test_background.py",
    "tests/decoders/test_confinement.py",
    "tests/api/test_fuzz.py",
    "tests/docs/test_examples.py",
    "tests/api/routes/test_mesh_texturing.py",
    "tests/jobs/test_restarts.py",
    "tests/storage/test_archive_model.py",
    "tests/api/routes/test_hunyuan.py",
    "tests/api/test_inflight_bodies.py",
    "tests/cli/test_command.py",
    "tests/test_wheel.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes: tests that start servers wait half of the time."""
    return max(cores(), min(2 * cores(), MOST_WAITING))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # not by the number of tests
    return LoadFileScheduling(config, log)
