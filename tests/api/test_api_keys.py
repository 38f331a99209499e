from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis2_server.api.api_keys import ENVIRONMENT, KeyRing, is_readable_by_all, read_keys
from trellis2_server.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@given(
    st.sets(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), min_size=1, max_size=4)
)
def test_a_key_is_known_by_its_owner_and_no_other_is(keys: set[str]) -> None:
    ring = KeyRing(keys)
    owners = {ring.owner(key.encode()) for key in keys}
    assert len(owners) == len(keys)
    assert all(owner and re.fullmatch("[0-9a-f]{32}", owner) for owner in owners)
    assert ring.owner(b"") is None
    assert all(ring.owner(key.encode() + b"x") in {None, *owners} for key in keys)
    assert ring.owner("".join(sorted(keys)).encode() + b"\0no") is None


def test_other_keys_take_the_place_of_the_known_ones_and_owners_stay() -> None:
    ring = KeyRing(["a", "b"])
    owner = ring.owner(b"b")
    ring.replace(["b", "c", "c"])
    assert (len(ring), ring.owner(b"a"), ring.owner(b"b")) == (2, None, owner)


def test_what_holds_the_keys_does_not_show_them() -> None:
    assert "s3cret" not in repr(vars(KeyRing(["s3cret"])))


def test_keys_come_from_the_configuration_the_environment_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# the studio's\n\n  three  \r\nfo#ur\n#five\none\n", encoding="utf-8-sig")
    found = read_keys(["one"], file, {ENVIRONMENT: " two ,three,"})
    assert found == ("one", "two", "three", "fo#ur")
    assert read_keys([], None, {ENVIRONMENT: ""}) == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "holds no key"),
        (b"\n  \n# none\n", "holds no key"),
        (b"\xff\xfe\xff", "is not UTF-8"),
    ],
)
def test_a_file_without_keys_does_not_open_the_server(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"server\.api_keys_file: .*keys {said}"):
        read_keys(["configured"], file, {})


def test_neither_does_an_environment_of_commas() -> None:
    with pytest.raises(ConfigError, match=ENVIRONMENT):
        read_keys([], None, {ENVIRONMENT: " , "})


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such mode")
def test_a_file_that_every_user_may_read_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("key")
    for mode, is_open in ((0o600, False), (0o640, False), (0o644, True), (0o604, True)):
        file.chmod(mode)
        assert is_readable_by_all(file) is is_open
