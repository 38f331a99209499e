"""Warnings about who can use the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trellis2_server.api import api_keys

if TYPE_CHECKING:
    from trellis2_server.settings import ServerSettings


def access_warnings(server: ServerSettings) -> list[str]:
    """Return what an operator may not expect about access to the server."""
    warnings: list[str] = []
    if not server.api_keys and server.host not in {"127.0.0.1", "localhost", "::1"}:
        warnings.append(
            f"anyone who can reach {server.host}:{server.port} can use this server: "
            "no API keys are set"
        )
    if server.api_keys_file is not None and api_keys.is_readable_by_all(server.api_keys_file):
        warnings.append(
            f"every user of this machine can read the keys in {server.api_keys_file}: chmod 600"
        )
    return warnings
