"""Signed links: URLs of a job's files and events that need no API key, for a time.

A viewer, an `<img>` or an `EventSource` cannot send a key. A link has two query parameters:
`expires`, Unix seconds, and `signature`, the HMAC-SHA256 of the job's uid, its owner and `expires`.
One signature is for every route that `PATHS` matches of that job, and for no other job. Where the
owner's key is withdrawn, its links end, too.

Does not know: HTTP, where jobs are.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from trellis2_server.api.api_keys import NO_OWNER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from trellis2_server.settings import Settings

_UID: Final = "([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
#: Paths that a link may be for; the groups are the job's uid.
PATHS: Final = re.compile(rf"(?:/api)?/(?:jobs/{_UID}/[a-z0-9._]+|events/{_UID})\Z")
#: Links of one minute are equal, so that what they name is found in caches, seconds.
_GRAIN_S: Final = 60
_EXPIRES: Final = re.compile(r"[0-9]{1,12}\Z")
_SIGNATURE: Final = re.compile(r"[A-Za-z0-9_-]{43}\Z")
_SECRET_BYTES: Final = 32


class LinkSigner:
    """Makes and checks links.

    Args:
        secret: signs them; whoever knows it can make links.
        lifetime_s: how long they are valid, seconds; up to a minute more.
        clock: Unix seconds.
    """

    def __init__(
        self, secret: bytes, lifetime_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._secret = secret
        self._lifetime_s = lifetime_s
        self._clock = clock

    def expires_at(self) -> int:
        """Return when a link that is made now expires, Unix seconds."""
        return -int(-(self._clock() + self._lifetime_s) // _GRAIN_S) * _GRAIN_S

    def link(self, path: str, uid: str, owner: str) -> str:
        """Return a path with the parameters that make it a link; the path itself without an owner.

        Args:
            path: of a file or the events of the job; may have a query.
            uid: of the job.
            owner: of the job.
        """
        if owner == NO_OWNER:
            return path
        expires = str(self.expires_at())
        separator = "&" if "?" in path else "?"
        signature = self._signature(uid, owner, expires)
        return f"{path}{separator}expires={expires}&signature={signature}"

    def owner(self, path: str, query: Mapping[str, str], owners: Iterable[str]) -> str | None:
        """Return whose job a request may read by its link; None: it has no valid link.

        Args:
            path: of the request, without the prefix of a proxy.
            query: of the request.
            owners: who may have made the link.
        """
        match = PATHS.match(path)
        expires, signature = query.get("expires", ""), query.get("signature", "")
        if not (match and _SIGNATURE.match(signature) and _EXPIRES.match(expires)):
            return None
        if int(expires) <= self._clock():
            return None
        uid = match.group(1) or match.group(2)
        # All owners are compared, so that the time reveals nothing about them.
        found = [
            owner
            for owner in owners
            if hmac.compare_digest(self._signature(uid, owner, expires), signature)
        ]
        return found[0] if found else None

    def _signature(self, uid: str, owner: str, expires: str) -> str:
        message = f"{uid}\n{owner}\n{expires}".encode()
        digest = hmac.digest(self._secret, message, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def with_link_secret(settings: Settings) -> Settings:
    """Return the settings with a secret: the configured one, or a random one.

    Processes that serve the same clients need the same.
    """
    if settings.server.link_secret is not None:
        return settings
    secret = SecretStr(secrets.token_urlsafe(_SECRET_BYTES))
    server = settings.server.model_copy(update={"link_secret": secret})
    return settings.model_copy(update={"server": server})


def make_signer(settings: Settings) -> LinkSigner:
    """Return what makes and checks the links of a server."""
    server = with_link_secret(settings).server
    secret = server.link_secret.get_secret_value() if server.link_secret else ""
    return LinkSigner(secret.encode(), server.link_seconds)
