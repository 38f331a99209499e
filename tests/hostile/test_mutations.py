"""Mutated pictures and meshes through the readers, in decoder processes.

Some seconds. For minutes: `python tests/hostile/test_mutations.py --seconds 300`, or
`--examples 20000`. On Linux, no file may take more than `most_bytes`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.mutations import MESHES, PICTURES, mutated
from tests.support.peak_memory import Growth, can_measure, measured
from trellis2_server.decoders.limits import DecoderLimits
from trellis2_server.decoders.meshes import read_mesh
from trellis2_server.decoders.pictures import decode_image
from trellis2_server.decoders.pool import DecoderPool
from trellis2_server.errors import InputError
from trellis2_server.inputs.images.decoding import DecodedImage

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Read = Callable[[DecoderPool, bytes], object]

LIMITS = DecoderLimits(memory_bytes=2**29, timeout_s=10)
FILES = {"picture": PICTURES, "mesh": MESHES}
#: The largest picture; its pixels take less than `FREE_BYTES`.
MAX_PIXELS = 4_000_000
#: Memory that a file of any size may take, and how many times its size besides.
FREE_BYTES, TIMES = 64_000_000, 30


def _picture(pool: DecoderPool, content: bytes) -> object:
    return decode_image(pool, content, max_pixels=MAX_PIXELS, check=lambda: None)


def _mesh(pool: DecoderPool, content: bytes) -> object:
    keep_uv = len(content) % 2 == 1
    return read_mesh(pool, content, rotation_deg=0, keep_uv=keep_uv, check=lambda: None)


READERS: dict[str, Read] = {"picture": _picture, "mesh": _mesh}


def most_bytes(content: bytes) -> int:
    """Return the memory that reading a file may take, bytes."""
    return FREE_BYTES + TIMES * len(content)


def read_mutations(pool: DecoderPool, kind: str, examples: int, first: int = 0) -> Counter[str]:
    """Read mutated files; return how often each result came. Only refusals may be raised."""
    came: Counter[str] = Counter()
    is_measured = can_measure()

    @seed(first)
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(content=mutated(FILES[kind]))
    def read(content: bytes) -> None:
        pool.confinement()  # starts a process, if the last one has ended
        pid = pool.pids[0]
        with measured(pid) if is_measured else nullcontext(Growth()) as growth:
            read_one(content)
        if growth.peak_bytes is not None and pool.pids == [pid]:
            came["measured"] += 1
            assert growth.peak_bytes <= most_bytes(content), (len(content), content[:80])

    def read_one(content: bytes) -> None:
        try:
            result = READERS[kind](pool, content)
        except InputError as error:
            text = str(error)
            assert "invalid result" not in text, text
            came[_kind_of(text)] += 1
        else:
            assert isinstance(result, tuple | DecodedImage)
            came["value"] += 1

    read()
    return came


def _kind_of(text: str) -> str:
    for words in ("took longer", "more memory", "ended the process"):
        if words in text:
            return words
    return "refused"


@pytest.fixture(scope="module")
def pool() -> Generator[DecoderPool]:
    decoders = DecoderPool(LIMITS, 1)
    yield decoders
    decoders.close()


@pytest.mark.parametrize(("kind", "examples"), [("picture", 300), ("mesh", 300)])
def test_every_mutated_file_gives_a_value_or_is_refused(
    pool: DecoderPool, kind: str, examples: int
) -> None:
    came = read_mutations(pool, kind, examples)
    # Mutations that break every file, or none, would test nothing.
    assert came["value"] > examples // 20
    assert came["refused"] > examples // 20


@pytest.mark.skipif(not can_measure(), reason="this system does not count the peak of a process")
@pytest.mark.parametrize("kind", FILES)
def test_the_memory_that_a_mutated_file_takes_is_in_proportion_to_its_size(
    pool: DecoderPool, kind: str
) -> None:
    assert read_mutations(pool, kind, 100, first=1)["measured"] > 90


@pytest.mark.costly
@pytest.mark.parametrize("kind", FILES)
def test_each_file_that_mutations_begin_with_gives_a_value_or_is_refused(
    pool: DecoderPool, kind: str
) -> None:
    served: set[str] = set()
    for name, make in FILES[kind].items():
        try:
            READERS[kind](pool, make())
        except InputError:
            continue
        served.add(name)
    assert len(served) > len(FILES[kind]) // 2


#: Examples of one kind that the command reads before those of the other.
_BATCH = 500


def main() -> None:
    """Read mutated files for a time; print what came, and how the processes ended."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300, help="duration (300)")
    parser.add_argument("--examples", type=int, help="their number, instead of a duration")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9, help="first seed")
    arguments = parser.parse_args()
    pool, begin = DecoderPool(LIMITS, 1), time.monotonic()
    came: dict[str, Counter[str]] = {kind: Counter() for kind in FILES}
    number = arguments.seed
    try:
        while (
            time.monotonic() - begin < arguments.seconds
            if arguments.examples is None
            else (number - arguments.seed) * _BATCH < arguments.examples
        ):
            for kind in FILES:
                came[kind] += read_mutations(pool, kind, _BATCH, number)
                number += 1
    finally:
        pool.close()
        report: dict[str, Any] = {kind: dict(counts) for kind, counts in came.items()}
        report |= {"seeds": [arguments.seed, number], "decoders": dict(pool.counts)}
        print(report)  # noqa: T201 - a command


if __name__ == "__main__":
    main()
