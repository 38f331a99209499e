"""The routes, one module per protocol or topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trellis2_server.api.routes import (
    export,
    files,
    hunyuan,
    jobs,
    monitoring,
    native,
    openai,
    pictures,
    sglang,
    stableprojectorz,
    unity,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from fastapi import APIRouter

    from trellis2_server.settings import Protocol

_ALWAYS: Final[frozenset[Protocol]] = frozenset()
#: Routers of the API, in the order in which their routes are matched, and the protocols that
#: need them.
_ROUTERS: Final[tuple[tuple[APIRouter, frozenset[Protocol]], ...]] = (
    (unity.router, frozenset({"unity"})),  # before the other statuses, whose routes would match
    (native.shared_router, frozenset({"native", "hunyuan"})),
    (hunyuan.shared_router, frozenset({"native", "hunyuan"})),
    (stableprojectorz.router, frozenset({"stableprojectorz"})),
    (hunyuan.health_router, frozenset({"hunyuan", "unity"})),
    (hunyuan.router, frozenset({"hunyuan"})),
    (jobs.router, _ALWAYS),
    (pictures.router, _ALWAYS),  # before the files, whose route would match
    (files.router, _ALWAYS),
    (export.router, _ALWAYS),
    (native.router, frozenset({"native"})),
    (openai.router, frozenset({"openai"})),
    (openai.models_router, frozenset({"openai", "sglang"})),
    (sglang.router, frozenset({"sglang"})),
    (monitoring.router, _ALWAYS),
)


def routers_of(protocols: Collection[Protocol]) -> list[APIRouter]:
    """Return the routers of these protocols, in the order in which their routes are matched."""
    return [
        router for router, needing in _ROUTERS if not needing or not needing.isdisjoint(protocols)
    ]
