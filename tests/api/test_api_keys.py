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
def test_each_key_has_an_owner_of_its_own_and_other_keys_have_none(keys: set[str]) -> None:
    ring = KeyRing(keys)
    owners = {ring.owner(key.encode()) for key in keys}
    assert len(owners) == len(keys)
    assert all(owner and re.fullmatch("[0-9a-f]{32}", owner) for owner in owners)
    assert ring.owner(b"") is None
    assert all(ring.owner(key.encode() + b"x") in {None, *owners} for key in keys)
    assert ring.owner("".join(sorted(keys)).encode() + b"\0no") is None


def test_replaced_keys_keep_their_owners() -> None:
    ring = KeyRing(["a", "b"])
    owner = ring.owner(b"b")
    ring.replace(["b", "c", "c"])
    assert (len(ring), ring.owner(b"a"), ring.owner(b"b")) == (2, None, owner)


def test_a_key_ring_does_not_store_the_keys() -> None:
    assert "s3cret" not in repr(vars(KeyRing(["s3cret"])))


def test_keys_are_read_from_the_configuration_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# the studio's\n\n  three  \r\nfo#ur\n#five\none\n", encoding="utf-8-sig")
    keys = read_keys(["one"], file, {ENVIRONMENT: " two ,three,"})
    assert keys == ("one", "two", "three", "fo#ur")
    assert read_keys([], None, {ENVIRONMENT: ""}) == ()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "holds no key"),
        (b"\n  \n# none\n", "holds no key"),
        (b"\xff\xfe\xff", "is not UTF-8"),
    ],
)
def test_a_key_file_without_keys_is_an_error(
    tmp_path: Path, content: bytes | None, cause: str
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"server\.api_keys_file: .*keys {cause}"):
        read_keys(["configured"], file, {})


def test_an_environment_variable_without_keys_is_an_error() -> None:
    with pytest.raises(ConfigError, match=ENVIRONMENT):
        read_keys([], None, {ENVIRONMENT: " , "})


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such mode")
def test_a_world_readable_key_file_is_detected(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("key")
    for mode, is_readable in ((0o600, False), (0o640, False), (0o644, True), (0o604, True)):
        file.chmod(mode)
        assert is_readable_by_all(file) is is_readable
