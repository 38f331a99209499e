from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trellis2_server.api.file_responses import _parse_range

SIZES = st.integers(1, 40)
PLACES = st.integers(0, 60)


def selected(header: str, size: int) -> bytes | None:
    """The bytes of a file of that size that a range selects; None: not a range."""
    content = bytes(range(size))
    found = _parse_range(header, size)
    if found is None:
        return None
    first, last = found
    assert last < size
    return content[first : last + 1]


@given(SIZES, PLACES, PLACES)
def test_a_range_selects_both_of_its_ends_and_no_more_than_the_file(
    size: int, first: int, last: int
) -> None:
    wanted = None if last < first else bytes(range(size))[first : last + 1]
    assert selected(f"bytes={first}-{last}", size) == wanted


@given(SIZES, PLACES)
def test_an_open_range_selects_all_from_its_place(size: int, first: int) -> None:
    assert selected(f"bytes={first}-", size) == bytes(range(size))[first:]


@given(SIZES, PLACES)
def test_a_suffix_selects_so_many_of_the_last_bytes(size: int, count: int) -> None:
    wanted = bytes(range(size))[max(0, size - count) :]
    first, last = _parse_range(f"bytes=-{count}", size) or (0, -1)
    assert bytes(range(size))[first : last + 1] == wanted


def test_what_is_no_single_range_of_bytes_is_ignored() -> None:
    for header in ("bytes=-", "bytes=2-1", "bytes=0-1,3-4", "lines=0-1", "", "bytes=a-"):
        assert _parse_range(header, 10) is None
