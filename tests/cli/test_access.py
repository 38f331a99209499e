"""What an operator is warned of."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from tests.support.server import settings
from trellis2_server.cli.access import access_warnings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("hosts", "has_keys", "named"),
    [
        (["127.0.0.1", "localhost", "::1"], False, None),
        (["0.0.0.0"], False, "reach 0.0.0.0:8082 can"),  # noqa: S104
        (["127.0.0.1", "::", "10.0.0.1"], False, "reach [::]:8082, 10.0.0.1:8082 can"),
        (["0.0.0.0"], True, None),  # noqa: S104
        (["127.0.0.1"], True, None),
    ],
    ids=range(5),
)
def test_an_open_server_is_told_unless_it_is_this_machines_or_has_keys(
    hosts: list[str], *, has_keys: bool, named: str | None
) -> None:
    keys: dict[str, Any] = {"api_keys": [SecretStr("a-key")]} if has_keys else {}
    server = settings(server={"host": hosts, "port": 8082, **keys}).server
    warnings = access_warnings(server)
    assert len(warnings) == (named is not None)
    assert named is None or named in warnings[0]


@pytest.mark.skipif(os.name != "posix", reason="needs modes")
@pytest.mark.parametrize(("mode", "is_told"), [(0o600, False), (0o604, True), (0o640, False)])
def test_a_file_of_keys_that_others_can_read_is_told(
    tmp_path: Path, mode: int, *, is_told: bool
) -> None:
    file = tmp_path / "keys"
    file.write_text("a-key")
    file.chmod(mode)
    server = settings(server={"host": ["127.0.0.1"], "api_keys_file": str(file)}).server
    warnings = access_warnings(server)
    assert len(warnings) == is_told
    assert not warnings or f"can read the keys in {file}: chmod 600" in warnings[0]
