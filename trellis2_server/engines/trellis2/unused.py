"""Fields of a request that only the preview engine uses.

Does not know: models, devices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trellis2_server.parameters import Options


def fields(options: Options) -> tuple[str, ...]:
    """Return a warning for each field of the request that TRELLIS.2 does not use."""
    asked = {"depth": options.depth, "back": options.back}
    return tuple(
        f"{name}: TRELLIS.2 does not use it; it is a field of the preview engine"
        for name, value in asked.items()
        if value != "auto"
    )
