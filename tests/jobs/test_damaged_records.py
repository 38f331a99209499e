"""One bit flips anywhere in the database: damage stays with the job that it hit."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import uuid
from typing import TYPE_CHECKING

import pytest

from trellis2_server.errors import StoreError
from trellis2_server.jobs.job import Job, Status
from trellis2_server.jobs.records import JobRecords
from trellis2_server.jobs.registry import JobRegistry
from trellis2_server.parameters import Delivery, read_options
from trellis2_server.settings import Settings
from trellis2_server.storage.archive import Archive
from trellis2_server.storage.disk_store import DiskStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOBS = 6
CONTENTS = [bytes([number]) * 1000 for number in range(JOBS)]


def clock() -> float:
    return 1000.0


def registry_of(archive: Archive) -> tuple[JobRecords, JobRegistry]:
    records = JobRecords(archive, clock)
    return records, JobRegistry(records, "origin")


async def fill(folder: Path) -> list[Job]:
    archive = Archive(DiskStore(folder), max_evictable_bytes=0)
    archive.open()
    _, registry = registry_of(archive)
    jobs: list[Job] = []
    for number, content in enumerate(CONTENTS):
        uid = str(uuid.UUID(int=random.Random(number).getrandbits(128)))  # noqa: S311 - no secret
        options = read_options({"seed": number}, Settings())
        image_hash = f"{number:032x}"
        job = registry.put(Job(uid, options, "preview", 900.0, created_unix_s=1.7e9 + number))
        shape = archive.store_file(uid, "shape.glb", content)
        changes = {"status": Status.COMPLETED, "image_hash": image_hash, "background": "alpha"}
        jobs.append(registry.put(job.changed(950.0, shape_glb=shape, shape_md5="0", **changes)))
        registry.bind_key(("cutout", "", image_hash, options), uid)
        registry.create_alias(job, Delivery(texture=False, type="glb"))
    await archive.close()
    return jobs


async def opened(folder: Path, jobs: list[Job]) -> tuple[int, int]:
    """How many jobs are as they were, and how many are errors; none is anything else."""
    archive = Archive(DiskStore(folder), max_evictable_bytes=0)
    contents = archive.open()
    assert contents.failure is None
    records, registry = registry_of(archive)
    records.restore(contents, registry)
    good = errors = 0
    by_uid = {job.uid: job for job in jobs}
    for job in registry:
        saved = by_uid[job.uid]
        assert (job.options, job.image_hash) == (saved.options, saved.image_hash)
        if job.status is Status.ERROR:
            assert isinstance(job.error, StoreError)
            errors += 1
            continue
        assert (job.status, job.shape_glb) == (Status.COMPLETED, saved.shape_glb)
        assert job.shape_glb is not None
        try:
            content = await archive.open_file(job.shape_glb)
        except StoreError:  # its SHA-256 was hit
            errors += 1
        else:
            assert await content.read() == CONTENTS[jobs.index(saved)]
            good += 1
    await archive.close()
    return good, errors


def flips(
    tmp_path: Path, choose: Callable[[bytes, list[Job]], list[int]]
) -> list[tuple[int, int, int]]:
    """Flip a bit at each of these positions: position, good jobs, jobs that are errors."""
    original, folder = tmp_path / "original", tmp_path / "results"
    jobs = asyncio.run(fill(original))
    content = (original / "results.sqlite").read_bytes()
    chance = random.Random(1)  # noqa: S311 - the same bits each time
    results: list[tuple[int, int, int]] = []
    for at in choose(content, jobs):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder)
        flipped = bytearray(content)
        flipped[at] ^= 1 << chance.randrange(8)
        (folder / "results.sqlite").write_bytes(flipped)
        results.append((at, *asyncio.run(opened(folder, jobs))))
    return results


def test_a_bit_that_flips_in_a_record_costs_that_job_at_most(tmp_path: Path) -> None:
    def choose(content: bytes, jobs: list[Job]) -> list[int]:
        begins = [content.index(job.uid.encode() + b"{") for job in jobs]  # key and record
        ends = [match.end() for match in re.finditer(rb'"crc32": ', content)]  # elsewhere
        assert len(ends) >= JOBS
        return [
            *(
                begin + at + number
                for number, begin in enumerate(begins)
                for at in range(0, 900, 43)
            ),
            *(end + 10 - at for end in ends for at in range(0, 300, 43)),
        ]

    found = flips(tmp_path, choose)
    assert len(found) > 100
    assert all(good >= JOBS - 1 for _, good, _ in found), found


@pytest.mark.costly
def test_a_bit_that_flips_anywhere_in_the_database_never_makes_a_wrong_job(tmp_path: Path) -> None:
    def choose(content: bytes, jobs: list[Job]) -> list[int]:
        del jobs
        written = [at for at, byte in enumerate(content) if byte]
        return random.Random(2).sample(written, 120)  # noqa: S311 - the same places each time

    found = flips(tmp_path, choose)
    assert all(good >= JOBS - 1 for _, good, _ in found), found
