"""One call: what comes back, and what each limit does."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.decoder_tasks import TABLE
from tests.support.descriptors import open_files
from tests.support.server import until
from trellis2_server import errors
from trellis2_server.decoders import DecoderLimits, DecoderPool, process
from trellis2_server.decoders.transport import CAN_SEND_DESCRIPTORS
from trellis2_server.decoders.worker import ends_with_server

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    MakePool = Callable[..., DecoderPool]

LIMITS: dict[str, Any] = {"memory_bytes": 2**28, "timeout_s": 30.0, "result_bytes": 2**26}
TRANSPORTS = ["memory", "file", "inline"] if CAN_SEND_DESCRIPTORS else ["inline"]


@pytest.fixture(params=TRANSPORTS)
def make_pool(request: pytest.FixtureRequest) -> Generator[MakePool]:
    """Makes pools of one process, with each transport."""
    pools: list[DecoderPool] = []

    def make(**changes: Any) -> DecoderPool:
        limits = DecoderLimits(**{**LIMITS, **changes})
        pools.append(DecoderPool(limits, 1, tasks=TABLE, transport=request.param))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


class LostInterestError(Exception):
    """What a check raises."""


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_content_arguments_and_arrays_of_all_types_arrive_as_they_are(
    make_pool: MakePool, size: int
) -> None:
    content = np.random.default_rng(1).bytes(size)
    arguments = {"a": [1, 2.5, None, True, "ü\U0001f600\u2028"]}
    meta, arrays = make_pool().call("echo", content, arguments)
    assert meta["arguments"] == arguments
    assert arrays.pop("data").tobytes() == content
    assert arrays.pop("empty").shape == (0, 3)
    assert len(arrays) == 7
    for dtype, array in arrays.items():
        assert array.dtype == dtype
        assert array.tolist() == [[0, 1, 0], [1, 0, 1]]
        assert array.flags.writeable


def test_a_result_may_have_no_arrays(make_pool: MakePool) -> None:
    assert make_pool().call("nothing", b"", {}) == ({}, {})


def test_a_process_is_reused(make_pool: MakePool) -> None:
    pool = make_pool()
    pid = pool.call("echo", b"x", {}).meta["pid"]
    before = open_files(pid), open_files()
    assert {pool.call("echo", b"x", {}).meta["pid"] for _ in range(5)} == {pid}
    assert open_files() == before[1]
    # It closes what belonged to a question after its answer: the first count may be too high.
    until(lambda: open_files(pid) <= before[0], "none is left open")
    assert pool.counts == {"started": 1}
    assert pool.running == 1


@pytest.mark.costly
@pytest.mark.parametrize(
    ("raised", "expected", "text"),
    [
        ("InputError", errors.InputError, "as asked"),
        ("TooLargeError", errors.TooLargeError, "as asked"),
        ("MissingPackageError", errors.MissingPackageError, "as asked"),
        ("EngineError", errors.EngineError, "as asked"),
        (
            "MemoryError",
            errors.TooLargeError,
            "mesh: decoding it takes more memory than is allowed",
        ),
        ("ValueError", errors.InputError, "mesh: the file cannot be read (ValueError)"),
        ("RecursionError", errors.InputError, "mesh: the file cannot be read (RecursionError)"),
        ("ImportError", errors.MissingPackageError, "a package is missing: None"),
    ],
)
def test_errors_of_a_task_are_raised_again(
    make_pool: MakePool, raised: str, expected: type[Exception], text: str
) -> None:
    with pytest.raises(expected) as caught:
        make_pool().call("fail", b"", {"class": raised}, field="mesh")
    assert type(caught.value) is expected
    assert str(caught.value) == text


@pytest.mark.costly
@pytest.mark.parametrize("holds", [False, True])
def test_an_endless_loop_ends_with_the_time_limit(make_pool: MakePool, *, holds: bool) -> None:
    pool = make_pool()
    pool.call("nothing", b"", {})
    with pytest.raises(errors.InputError) as caught:
        pool.call("loop", b"", {"holds": holds}, timeout_s=0.3)
    assert type(caught.value) is errors.InputError
    assert str(caught.value) == "image: decoding it took longer than 0.3 seconds"
    assert pool.counts == {"started": 1, "timeout": 1}
    assert pool.running == 0
    assert pool.call("nothing", b"", {})


@pytest.mark.costly
@pytest.mark.parametrize("is_watched", [False, True])
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of memory, or /proc")
def test_memory_over_the_limit_is_refused(make_pool: MakePool, *, is_watched: bool) -> None:
    pool = make_pool(memory_is_watched=is_watched)
    assert pool.call("allocate", b"", {"size": 2**27}).meta["blocks"] == 8
    with pytest.raises(errors.TooLargeError, match=r"^mesh: .* more memory than is allowed$"):
        pool.call("allocate", b"", {"size": 2**33}, field="mesh")
    assert pool.counts["memory"] == 1
    # What little it has left may be in pieces: the next file gets a new process.
    assert pool.call("allocate", b"", {"size": 2**27}).meta["blocks"] == 8
    assert pool.counts["started"] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of memory")
def test_a_file_or_a_result_that_cannot_be_mapped_is_too_large() -> None:
    pool = DecoderPool(DecoderLimits(2**27, 30.0, 2**30), 1, tasks=TABLE)
    with pytest.raises(errors.TooLargeError, match="larger than the memory"):
        pool.call("nothing", bytes(2**28), {})
    with pytest.raises(errors.TooLargeError, match="mesh: decoding it takes more memory"):
        pool.call("return_much", b"", {"size": 2**26 + 2**25}, field="mesh")
    assert pool.counts == {"started": 2, "memory": 2}
    pool.close()


def test_a_process_ends_by_the_clock_where_the_signal_of_its_pipe_is_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ends_with_server("memory") == (sys.platform == "linux")
    for platform, kind in (("darwin", "memory"), ("linux", "inline"), ("win32", "inline")):
        monkeypatch.setattr(sys, "platform", platform)
        assert not ends_with_server(kind)


@pytest.mark.costly
def test_a_process_that_leaks_is_replaced(make_pool: MakePool) -> None:
    pool = make_pool(memory_bytes=2**31)
    first = pool.call("keep", b"", {"size": 2**20}).meta["pid"]
    assert pool.call("keep", b"", {"size": 2**29}).meta["pid"] == first
    assert pool.call("keep", b"", {"size": 2**20}).meta["pid"] != first
    assert pool.counts == {"started": 2}


@pytest.mark.costly
def test_a_crash_is_tried_once_more_and_then_refused(make_pool: MakePool) -> None:
    pool = make_pool()
    with pytest.raises(errors.InputError) as caught:
        pool.call("end", b"", {"signal": int(signal.SIGSEGV)})
    assert str(caught.value) == (
        "image: decoding it ended the process (SIGSEGV), also when it was tried again"
    )
    assert pool.counts == {"started": 2, "crash": 2}
    with pytest.raises(errors.InputError, match=r"exit code 3"):
        pool.call("end", b"", {"code": 3})


def test_what_a_check_raises_kills_the_process(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.call("nothing", b"", {})
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise LostInterestError

    with pytest.raises(LostInterestError):
        pool.call("wait", b"", {}, check=check)
    assert pool.counts == {"started": 1, "cancelled": 1}
    assert pool.running == 0


def lose_interest() -> None:
    raise LostInterestError


def test_a_call_that_is_over_soon_does_not_cost_its_process(make_pool: MakePool) -> None:
    pool = make_pool()
    first = pool.call("echo", b"", {}).meta["pid"]
    with pytest.raises(LostInterestError):
        pool.call("nothing", b"", {}, check=lose_interest)
    assert pool.call("echo", b"", {}).meta["pid"] == first
    assert pool.counts == {"started": 1}


def test_a_process_whose_start_nobody_waits_for_serves_the_next_call(make_pool: MakePool) -> None:
    pool = make_pool()
    with pytest.raises(LostInterestError):
        pool.call("nothing", b"", {}, check=lose_interest)
    (started,) = pool.pids
    assert pool.call("echo", b"", {}).meta["pid"] == started


def test_a_check_ends_the_start_of_a_process_that_takes_long(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "START_GRACE_S", 0.0)
    pool = make_pool()
    with pytest.raises(LostInterestError):
        pool.call("nothing", b"", {}, check=lose_interest)
    assert pool.running == 0


def test_a_result_over_the_limit_is_refused(make_pool: MakePool) -> None:
    pool = make_pool()
    assert pool.call("return_much", b"", {"size": 2**26}).arrays["zeros"].size == 2**26
    with pytest.raises(errors.TooLargeError, match="mesh: its content is too large"):
        pool.call("return_much", b"", {"size": 2**26 + 1}, field="mesh")
    with pytest.raises(errors.TooLargeError, match="texts are too long"):
        pool.call("say_much", b"", {"size": 2**20}, field="mesh")


def test_a_result_that_is_larger_than_its_task_can_make_is_not_taken_in(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    arrays = pool.call("return_much", b"", {"size": 2**16}, result_bytes=2**16).arrays
    assert arrays["zeros"].nbytes == 2**16
    with pytest.raises(errors.InputError, match="ended with an invalid answer"):
        pool.call("return_much", b"", {"size": 2**16 + 1}, result_bytes=2**16)


RAW = {
    "a message that is too long": b"\xff\xff\xff\xff",
    "no JSON": b"\x02\x00\x00\x00{x",
    "no object": b"\x02\x00\x00\x00[]",
    "deep JSON": (100_000).to_bytes(4, "little") + b"[" * 100_000,
    "no result": b"\x02\x00\x00\x00{}",
    "an unknown error": (len(text := b'{"error":{"class":"SystemExit","text":""}}')).to_bytes(
        4, "little"
    )
    + text,
    "an object array": (len(text := b'{"meta":{},"arrays":[["a","object",[1]]]}')).to_bytes(
        4, "little"
    )
    + text,
    "a huge array": (len(text := b'{"meta":{},"arrays":[["a","uint8",[99999999999]]]}')).to_bytes(
        4, "little"
    )
    + text,
    "an empty array of an impossible size": (
        len(text := b'{"meta":{},"arrays":[["a","uint8",[0,549755813888,549755813888]]]}')
    ).to_bytes(4, "little")
    + text,
    "text that UTF-8 cannot hold": (
        len(text := b'{"error":{"class":"InputError","text":"\\ud800"}}')
    ).to_bytes(4, "little")
    + text,
    "the same, unescaped": (
        len(text := b'{"error":{"class":"InputError","text":"\xed\xa0\x80"}}')
    ).to_bytes(4, "little")
    + text,
    "a negative array": (len(text := b'{"meta":{},"arrays":[["a","uint8",[-1]]]}')).to_bytes(
        4, "little"
    )
    + text,
}


@pytest.mark.costly
@pytest.mark.skipif(not CAN_SEND_DESCRIPTORS, reason="needs sockets")
@pytest.mark.parametrize("raw", RAW.values(), ids=RAW.keys())
def test_an_invalid_answer_ends_the_process_and_harms_nobody(raw: bytes) -> None:
    pool = DecoderPool(DecoderLimits(**LIMITS), 1, tasks=TABLE)
    with pytest.raises(errors.InputError, match="ended with an invalid answer"):
        pool.call("send_raw", raw, {})
    assert pool.counts == {"started": 2, "crash": 2}
    pool.close()
