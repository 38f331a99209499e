"""Mutated pictures and meshes through the readers, in decoder processes.

Some seconds. For minutes: `python tests/hostile/test_mutations.py --seconds 300`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.mutations import MESHES, PICTURES, mutated
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


def _picture(pool: DecoderPool, content: bytes) -> object:
    return decode_image(pool, content, max_pixels=4_000_000, check=lambda: None)


def _mesh(pool: DecoderPool, content: bytes) -> object:
    return read_mesh(pool, content, rotation_deg=0, check=lambda: None)


READERS: dict[str, Read] = {"picture": _picture, "mesh": _mesh}


def read_mutations(pool: DecoderPool, kind: str, examples: int, first: int = 0) -> Counter[str]:
    """Read mutated files; return how often each result came. Only refusals may be raised."""
    came: Counter[str] = Counter()

    @seed(first)
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(content=mutated(FILES[kind]))
    def read(content: bytes) -> None:
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


@pytest.mark.parametrize(("kind", "examples"), [("picture", 600), ("mesh", 450)])
def test_every_mutated_file_gives_a_value_or_is_refused(
    pool: DecoderPool, kind: str, examples: int
) -> None:
    came = read_mutations(pool, kind, examples)
    # Mutations that break every file, or none, would test nothing.
    assert came["value"] > examples // 20
    assert came["refused"] > examples // 20


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


def main() -> None:
    """Read mutated files for a time; print what came, and how the processes ended."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300, help="duration (300)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9, help="first seed")
    arguments = parser.parse_args()
    pool, begin = DecoderPool(LIMITS, 1), time.monotonic()
    came: dict[str, Counter[str]] = {kind: Counter() for kind in FILES}
    number = arguments.seed
    try:
        while time.monotonic() - begin < arguments.seconds:
            for kind in FILES:
                came[kind] += read_mutations(pool, kind, 500, number)
                number += 1
    finally:
        pool.close()
        report: dict[str, Any] = {kind: dict(counts) for kind, counts in came.items()}
        report |= {"seeds": [arguments.seed, number], "decoders": dict(pool.counts)}
        print(report)  # noqa: T201 - a command


if __name__ == "__main__":
    main()
