"""What the preview does with several pictures of one object.

Does not know: how a shape or its colours are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trellis2_server.inputs.images import Cutout


def unused_views(cutout: Cutout) -> tuple[str, ...]:
    """Return a warning if there are pictures that the preview does not use."""
    if not cutout.views:
        return ()
    count = len(cutout.views)
    return (f"images: the preview engine uses the first of the {count} pictures only",)
