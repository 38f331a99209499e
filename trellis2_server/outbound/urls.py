"""`Url`: a strictly parsed http or https URL.

Parsers of URLs disagree about unusual ones, and an attack is a URL that two of them read
differently. So only what all of them read alike is accepted.

Does not know: which hosts are allowed.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

from trellis2_server.errors import InputError
from trellis2_server.outbound.hosts import read_host

if TYPE_CHECKING:
    from trellis2_server.outbound.hosts import HostList
    from trellis2_server.public_addresses import IPAddress

#: Longest URL, characters.
MAX_URL_LENGTH: Final = 2048
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_MAX_PORT: Final = 65_535
_URL: Final = re.compile(
    r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://"
    r"(?P<host>\[[0-9a-fA-F:.]*\]|[^/?#\[\]:@]*)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][^#]*)?(?:#.*)?",
    re.DOTALL,
)
#: Characters of URLs (RFC 3986), without those that some parsers change or split at.
_CHARACTERS: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*")


@dataclass(frozen=True, slots=True, repr=False)
class Url:
    """A URL. It has no `repr`: its path and query may be secret.

    Attributes:
        scheme: "http" or "https".
        host: a name in lower case, or an address.
        port: TCP port.
        target: path and query, as they are sent.
    """

    scheme: str
    host: str | IPAddress
    port: int
    target: str

    @property
    def default_port(self) -> int:
        """Port of the scheme."""
        return DEFAULT_PORTS[self.scheme]

    @property
    def authority(self) -> str:
        """Host and, if it is not the scheme's, port: the header `Host`."""
        entry = self.entry
        return entry if self.port != self.default_port else entry.rpartition(":")[0]

    @property
    def entry(self) -> str:
        """This host and port as an entry of a list of hosts."""
        host = f"[{self.host}]" if isinstance(self.host, ipaddress.IPv6Address) else str(self.host)
        return f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str | IPAddress, int]:
        """Scheme, host and port."""
        return self.scheme, self.host, self.port

    def join(self, location: str) -> str:
        """Return the URL that a redirect from here goes to, not parsed."""
        return urljoin(f"{self.scheme}://{self.authority}{self.target}", location)


def check_listed(url: Url, hosts: HostList, setting: str, name: str) -> None:
    """Return if the host of a URL is listed; its addresses are not looked up.

    Args:
        url: the URL.
        hosts: the list.
        setting: what the operator calls the list, for the message.
        name: what the message calls the URL.

    Raises:
        InputError: it is not.
    """
    if not hosts.allows(url.host, url.port, url.default_port):
        raise InputError(
            f"{name}: {url.authority} is not among the hosts that this server may call ({setting})"
        )


def parse_url(text: object, name: str) -> Url:
    """Parse a URL.

    Args:
        text: the URL.
        name: what the message calls it.

    Raises:
        InputError: it is no URL that all parsers read alike. The message does not contain it.
    """
    if not isinstance(text, str):
        raise InputError(f"{name}: must be a URL, as a string")
    if len(text) > MAX_URL_LENGTH:
        raise InputError(f"{name}: over the limit of {MAX_URL_LENGTH} characters")
    match = _URL.fullmatch(text)
    scheme = match["scheme"].lower() if match else ""
    if match is None or scheme not in DEFAULT_PORTS:
        # Says it of a name and password, too, without repeating them.
        raise InputError(
            f"{name}: must be a URL such as https://host/path, without a user name and password"
        )
    if not _CHARACTERS.fullmatch(text):
        raise InputError(f"{name}: has characters that must be written as %XX in a URL")
    host = read_host(match["host"])
    if host is None:
        raise InputError(
            f"{name}: its host must be a name, an IPv4 address as four decimal numbers, or an IPv6 "
            "address in brackets"
        )
    port = int(match["port"]) if match["port"] else DEFAULT_PORTS[scheme]
    if not 0 < port <= _MAX_PORT:
        raise InputError(f"{name}: its port must be between 1 and {_MAX_PORT}")
    target = match["target"] or "/"
    return Url(scheme, host, port, target if target.startswith("/") else f"/{target}")
