"""Directories of TIFF files that a test writes, entry by entry."""

from __future__ import annotations

import struct
from itertools import product

import pytest

from trellis2_server.inputs.images.tiff_directory import (
    describe_samples,
    has_deep_planes,
    read_directory,
)

#: By the number of a type: the code of `struct`, and its size in bytes.
CODES = {
    1: ("B", 1), 2: ("B", 1), 3: ("H", 2), 4: ("I", 4), 5: ("Q", 8), 6: ("b", 1), 7: ("B", 1),
    8: ("h", 2), 9: ("i", 4), 10: ("q", 8), 11: ("f", 4), 12: ("d", 8), 13: ("I", 4), 16: ("Q", 8),
    17: ("q", 8), 18: ("Q", 8),
}  # fmt: skip
ENTRIES: list[tuple[int, int, list[int]]] = [
    (256, 3, [640]),
    (256, 4, [70_000]),
    (258, 3, [8, 9, 10, 11, 12]),
    (258, 4, [20, 21, 22]),
    (270, 2, [*b"text of an entry"]),
    (271, 7, [*b"ab"]),
    (273, 4, [1, 2**32 - 1, 3]),
    (274, 1, [5, 6]),
    (277, 3, [3]),
    (279, 16, [2**63, 7]),
    (280, 11, [1, 2]),
    (700, 1, [*b"bytes that are elsewhere"]),
    (900, 12, [4, 5, 6]),
]
LAYOUTS = list(product("<>", (False, True)))
layouts = pytest.mark.parametrize(("order", "is_big"), LAYOUTS)


def tiff(
    order: str,
    is_big: bool,  # noqa: FBT001 - a layout's second part
    entries: list[tuple[int, int, list[int]]] = ENTRIES,
    *,
    gap: int = 0,
) -> bytes:
    """Return a TIFF of these entries; values that are too long are behind them."""
    width, letter = (8, "Q") if is_big else (4, "I")
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}H", 43 if is_big else 42)
    head += (
        struct.pack(f"{order}HHQ", 8, 0, 16 + gap) if is_big else struct.pack(f"{order}I", 8 + gap)
    )
    head += b"\xee" * gap
    counter = struct.pack(f"{order}{'Q' if is_big else 'H'}", len(entries))
    behind = len(head) + len(counter) + len(entries) * (4 + 2 * width)
    rows, more = b"", b""
    for tag, kind, values in entries:
        code, _ = CODES[kind]
        stored = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(stored) > width:
            place = struct.pack(f"{order}{letter}", behind + len(more))
            more += stored
        else:
            place = stored.ljust(width, b"\0")
        rows += struct.pack(f"{order}HH{letter}", tag, kind, len(values)) + place
    return head + counter + rows + more


@layouts
@pytest.mark.parametrize("gap", [0, 100])
def test_entries_are_read_in_each_layout(order: str, gap: int, *, is_big: bool) -> None:
    content = tiff(order, is_big, gap=gap)
    found = read_directory(content, is_big=is_big)
    assert found is not None
    assert found.order == order
    assert found.tags.tolist() == [tag for tag, _, _ in ENTRIES]
    assert found.kinds.tolist() == [kind for _, kind, _ in ENTRIES]
    assert found.counts.tolist() == [len(values) for *_, values in ENTRIES]
    assert found.first_values(content, 256) == [640, 70_000]
    assert found.first_values(content, 258) == [8, 20]
    assert found.first_values(content, 277) == [3]
    assert found.first_values(content, 999) == []
    assert found.integers(256) == [640, 70_000]
    for tag, values in ((258, [8, 9, 10, 11, 12]), (273, [1, 2**32 - 1, 3]), (274, [5, 6])):
        assert found.all_values(content, tag).tolist() == values
    assert found.all_values(content, 279).tolist() == [2**62, 7]
    assert found.all_values(content, 280).tolist() == []  # no whole numbers
    assert found.all_values(content, 999).tolist() == []
    assert found.bytes_of(content, 270) == b"text of an entry"
    assert found.bytes_of(content, 271) == b"ab"
    assert found.bytes_of(content, 700) == b"bytes that are elsewhere"
    assert found.bytes_of(content, 277) == b""
    assert found.count(258, 700) == 24
    assert found.count(258) == 5
    assert found.count(999) == 0
    for limit in (1, 10, 16, 10_000):
        sizes = [min(len(values) * CODES[kind][1], limit) for _, kind, values in ENTRIES]
        assert found.stored_bytes(limit) == sum(sizes)
    numbers = {tag: 0 for tag, *_ in ENTRIES}
    for tag, kind, values in ENTRIES:
        numbers[tag] += len(values) if kind not in {1, 2, 7} else 0
    assert found.numbers() == sum(numbers.values())
    assert found.numbers(without=(258, 900)) == sum(numbers.values()) - 8 - 3


@layouts
def test_values_are_read_as_far_as_the_file_has_them(order: str, *, is_big: bool) -> None:
    entries = [(258, 3, list(range(1, 12))), (700, 7, [*b"0123456789"])]
    content = tiff(order, is_big, entries)
    for missing in range(1, 32):
        cut = content[:-missing]
        found = read_directory(cut, is_big=is_big)
        assert found is not None
        assert found.bytes_of(cut, 700) == b"0123456789"[: max(0, 10 - missing)]
        there = min(22, max(0, 32 - missing)) // 2
        assert found.all_values(cut, 258).tolist() == list(range(1, there + 1))


@layouts
def test_a_directory_is_read_as_far_as_its_entries_are_whole(order: str, *, is_big: bool) -> None:
    entries = [(256 + number, 3, [number]) for number in range(4)]
    content = tiff(order, is_big, entries)
    size = 20 if is_big else 12
    for missing in range(1, len(content)):
        found = read_directory(content[:-missing], is_big=is_big)
        whole = 4 - -(-missing // size)
        assert (found is None) == (whole < 1)
        if found is not None:
            assert found.tags.tolist() == [256 + number for number in range(whole)]
    assert read_directory(tiff(order, is_big, []), is_big=is_big) is None


@layouts
def test_another_directory_is_read_at_its_offset(order: str, *, is_big: bool) -> None:
    first = tiff(order, is_big, ENTRIES[:2])
    other = tiff(order, is_big, [(900, 3, [4]), (901, 3, [5]), (902, 3, [6])])
    found = read_directory(first + other, len(first) + (16 if is_big else 8), is_big=is_big)
    assert found is not None
    assert found.tags.tolist() == [900, 901, 902]
    assert found.first_values(first + other, 902) == [6]
    forced = read_directory(first, is_big=not is_big)
    assert forced is None or forced.tags.tolist() != [256, 256]


def test_other_files_have_no_directory() -> None:
    assert read_directory(b"") is None
    assert read_directory(b"PK" + tiff("<", is_big=False)[2:]) is None
    assert read_directory(b"IM" + tiff("<", is_big=False)[2:]) is None


SAMPLES = [
    # planes, bits, samples, kind; what is said of them; whether these are deep planes
    (2, 16, 3, 1, "3 samples of 16 bits, unsigned", True),
    (2, 9, 2, 2, "2 samples of 9 bits, signed", True),
    (2, 8, 3, 1, "3 samples of 8 bits, unsigned", False),
    (1, 16, 3, 3, "3 samples of 16 bits, floating point", False),
    (3, 16, 3, 5, "3 samples of 16 bits, complex", False),
    (2, 16, 1, 6, "1 sample of 16 bits, complex", False),
    (2, 32, 4, 4, "4 samples of 32 bits, of an unknown kind", True),
]


#: Of big endian, Pillow takes a BigTIFF for a TIFF.
@pytest.mark.parametrize(
    ("order", "is_big"), [layout for layout in LAYOUTS if layout != (">", True)]
)
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: "-".join(map(str, sample[:4])))
def test_samples_are_described(
    order: str, sample: tuple[int, int, int, int, str, bool], *, is_big: bool
) -> None:
    planes, bits, count, kind, text, is_deep = sample
    entries = [
        (258, 3, [bits] * count), (277, 3, [count]), (284, 3, [planes]), (339, 3, [kind] * count),
    ]  # fmt: skip
    content = tiff(order, is_big, entries)
    assert describe_samples(content) == text
    assert has_deep_planes(content) == is_deep
    # What Pillow does not take for a TIFF is none.
    other = content[:2] + b"\7\7" + content[4:]
    assert describe_samples(other) is None
    assert not has_deep_planes(other)
    assert describe_samples(content[:20]) is None
    assert not has_deep_planes(content[:20])


def test_samples_that_are_not_described_have_the_usual_values() -> None:
    content = tiff("<", is_big=False, entries=[(256, 3, [9])])
    assert describe_samples(content) == "1 sample of 1 bits, unsigned"
    assert not has_deep_planes(content)
