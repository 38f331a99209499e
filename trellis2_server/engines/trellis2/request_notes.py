"""What of a request TRELLIS.2 does not use.

Does not know: models, devices, what happens in a stage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trellis2_server.engines.trellis2 import unused
from trellis2_server.engines.trellis2.views import unseen_views

if TYPE_CHECKING:
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.parameters import Options


def request_notes(options: Options, cutout: Cutout, *, has_mesh: bool = False) -> tuple[str, ...]:
    """Return a warning for each field, and for each stage that does not see all pictures.

    Args:
        options: of the request.
        cutout: its pictures.
        has_mesh: whether only the texture is made.
    """
    unseen = unseen_views(options, len(cutout.views), has_mesh=has_mesh)
    return (*unused.fields(options), *unseen)
