"""Warnings about who can use the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trellis2_server.api import api_keys
from trellis2_server.cli.listening import address_text

if TYPE_CHECKING:
    from trellis2_server.settings import ServerSettings


_LOCAL: Final = {"127.0.0.1", "localhost", "::1"}


def access_warnings(server: ServerSettings) -> list[str]:
    """Return what an operator may not expect about access to the server."""
    warnings: list[str] = []
    public = [host for host in server.host if host not in _LOCAL]
    if not server.api_keys and public:
        reached = ", ".join(address_text(host, server.port) for host in public)
        warnings.append(f"anyone who can reach {reached} can use this server: no API keys are set")
    if server.api_keys_file is not None and api_keys.is_readable_by_all(server.api_keys_file):
        warnings.append(
            f"every user of this machine can read the keys in {server.api_keys_file}: chmod 600"
        )
    return warnings
