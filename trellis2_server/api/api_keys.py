"""API keys: where they are read from, and whose a given one is.

A key is held as its digest only, and compared in a time that says nothing about it. Whoever
carries a key is known by an *owner*, the same after a restart, from which there is no way back
to the key.

What this module does not know: HTTP, what an owner may do.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from trellis2_server.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from trellis2_server.settings import Settings

#: Keys, separated by commas, next to those of the file.
ENVIRONMENT: Final = "TRELLIS2_SERVER_API_KEYS"
#: The owner of what is made without keys.
NOBODY: Final = ""
#: So that trying words until one gives an owner, which is kept on disk, takes long.
_OWNER_ROUNDS: Final = 20_000
_READABLE_BY_OTHERS: Final = 0o004


class KeyRing:
    """The keys that are accepted; none: everybody is."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._owners: dict[bytes, str] = {}
        self.replace(keys)

    def __len__(self) -> int:
        return len(self._owners)

    def replace(self, keys: Iterable[str]) -> None:
        """Accept these from now on, and no others."""
        self._owners = {_digest(key.encode()): _owner(key.encode()) for key in keys}

    def owner(self, given: bytes) -> str | None:
        """Who carries that key; None: it is none of these."""
        digest = _digest(given)
        # Every key is compared, so that the time says nothing about which one came near.
        matches = [hmac.compare_digest(digest, known) for known in self._owners]
        return self._owners[digest] if any(matches) else None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _owner(key: bytes) -> str:
    salt = b"trellis2-server: owner"
    return hashlib.pbkdf2_hmac("sha256", key, salt, _OWNER_ROUNDS, 16).hex()


def read_keys(
    configured: Iterable[str], file: Path | None, environment: Mapping[str, str]
) -> tuple[str, ...]:
    """The keys of the configuration, of a file of keys and of the environment, together.

    Args:
        configured: `server.api_keys`.
        file: `server.api_keys_file`: one key a line; lines that begin with `#` are comments.
        environment: of the process; `ENVIRONMENT` may hold keys.

    Raises:
        ConfigError: a place that is named holds none, which would open the server to all.
    """
    keys = list(configured)
    given = environment.get(ENVIRONMENT, "")
    if given:
        keys += _some([part.strip() for part in given.split(",")], f"{ENVIRONMENT}: holds no key")
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise ConfigError(
                f"server.api_keys_file: {file} cannot be read: {error.strerror}"
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"server.api_keys_file: {file} is not UTF-8") from error
        stripped = [line.strip() for line in lines]
        keys += _some(
            [line for line in stripped if not line.startswith("#")],
            f"server.api_keys_file: {file} holds no key",
        )
    return tuple(dict.fromkeys(keys))


def with_all_keys(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """The settings with the keys of the file of keys and of the environment among theirs.

    Raises:
        ConfigError: as `read_keys`.
    """
    server = settings.server
    configured = [key.get_secret_value() for key in server.api_keys]
    found = read_keys(configured, server.api_keys_file, environment)
    secret = tuple(SecretStr(key) for key in found)
    return settings.model_copy(update={"server": server.model_copy(update={"api_keys": secret})})


def _some(parts: Iterable[str], otherwise: str) -> list[str]:
    keys = [part for part in parts if part]
    if not keys:
        raise ConfigError(otherwise)
    return keys


def is_readable_by_all(file: Path) -> bool:
    """Whether every user of this machine may read that file; never so on Windows."""
    return os.name == "posix" and bool(file.stat().st_mode & _READABLE_BY_OTHERS)
