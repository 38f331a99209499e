"""`ClientConnections`: the open connections of each client.

Does not know: HTTP, what a connection does.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Generic, TypeVar

from trellis2_server.api.client_addresses import Networks, client_address

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

T = TypeVar("T")


class ClientConnections(Generic[T]):
    """Counts connections by address; for IPv6, by /64 network.

    Args:
        max_per_client: limit of one client's connections; None: unlimited.
        exempt: addresses or networks that are not counted: proxies, whose connections are those
            of many clients.
    """

    def __init__(self, max_per_client: int | None, exempt: Iterable[str] = ()) -> None:
        self._max = max_per_client
        self._exempt = Networks(exempt)
        self._by_client: defaultdict[str, set[T]] = defaultdict(set)

    def add(self, address: str, connection: T) -> AbstractSet[T]:
        """Count a connection; return all of the same client if they are too many, else nothing.

        Args:
            address: of the peer; connections without one are not counted.
            connection: the connection.
        """
        if not address or address in self._exempt:
            return frozenset()
        known = self._by_client[client_address(address)]
        known.add(connection)
        return known if self._max is not None and len(known) > self._max else frozenset()

    def discard(self, address: str, connection: T) -> None:
        """Forget a connection, which may be forgotten already."""
        client = client_address(address)
        known = self._by_client.get(client)
        if known is not None:
            known.discard(connection)
            if not known:
                del self._by_client[client]
