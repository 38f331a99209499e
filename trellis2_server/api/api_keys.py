"""API keys: reading them from the configuration, and finding the owner of a key.

Only digests of the keys are stored, and keys are compared in constant time. Each key has an
*owner*: a digest that is the same after a restart, and from which the key cannot be derived.

Does not know: HTTP, what an owner may do.
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

#: Environment variable with further keys, separated by commas.
ENVIRONMENT: Final = "TRELLIS2_SERVER_API_KEYS"
#: The owner of jobs that are created without a key.
NO_OWNER: Final = ""
#: PBKDF2 iterations: owners are stored on disk, and guessing their keys must be slow.
_OWNER_ROUNDS: Final = 20_000
_READABLE_BY_OTHERS: Final = 0o004


class KeyRing:
    """The accepted keys. Without keys, every request is accepted."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._owners: dict[bytes, str] = {}
        self.replace(keys)

    def __len__(self) -> int:
        return len(self._owners)

    def replace(self, keys: Iterable[str]) -> None:
        """Replace the accepted keys."""
        self._owners = {_digest(key.encode()): _owner(key.encode()) for key in keys}

    def owner(self, key: bytes) -> str | None:
        """Return the owner of a key; None if the key is not accepted."""
        digest = _digest(key)
        # All keys are compared, so that the time reveals nothing about them.
        matches = [hmac.compare_digest(digest, known) for known in self._owners]
        return self._owners[digest] if any(matches) else None

    def owners(self) -> list[str]:
        """Return the owners of all accepted keys."""
        return list(self._owners.values())

    def accepts(self, owner: str) -> bool:
        """Return whether a key of this owner is still accepted; True if there are no keys."""
        owners = self._owners
        return not owners or owner in owners.values()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _owner(key: bytes) -> str:
    salt = b"trellis2-server: owner"
    return hashlib.pbkdf2_hmac("sha256", key, salt, _OWNER_ROUNDS, 16).hex()


def read_keys(
    configured: Iterable[str], file: Path | None, environment: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the keys of the configuration, the key file and the environment.

    Args:
        configured: `server.api_keys`.
        file: `server.api_keys_file`, one key per line; lines that begin with `#` are comments.
        environment: environment variables of the process; `ENVIRONMENT` may contain keys.

    Raises:
        ConfigError: a configured source has no keys; the server would accept every request.
    """
    keys = list(configured)
    variable = environment.get(ENVIRONMENT, "")
    if variable:
        parts = [part.strip() for part in variable.split(",")]
        keys += _require_keys(parts, f"{ENVIRONMENT}: holds no key")
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
        keys += _require_keys(
            [line for line in stripped if not line.startswith("#")],
            f"server.api_keys_file: {file} holds no key",
        )
    return tuple(dict.fromkeys(keys))


def with_all_keys(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """Return a copy of the settings with the keys of all sources in `server.api_keys`.

    Raises:
        ConfigError: see `read_keys`.
    """
    server = settings.server
    configured = [key.get_secret_value() for key in server.api_keys]
    keys = read_keys(configured, server.api_keys_file, environment)
    secret = tuple(SecretStr(key) for key in keys)
    return settings.model_copy(update={"server": server.model_copy(update={"api_keys": secret})})


def _require_keys(parts: Iterable[str], message: str) -> list[str]:
    keys = [part for part in parts if part]
    if not keys:
        raise ConfigError(message)
    return keys


def is_readable_by_all(file: Path) -> bool:
    """Return whether all users of this machine can read the file; always False on Windows."""
    return os.name == "posix" and bool(file.stat().st_mode & _READABLE_BY_OTHERS)
