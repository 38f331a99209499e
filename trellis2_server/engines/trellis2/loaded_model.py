"""TRELLIS.2's objects after loading.

Does not know: how they are built, moved or called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trellis2_server.engines.trellis2.upstream import Upstream


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """TRELLIS.2's objects with their weights.

    Attributes:
        upstream: TRELLIS.2.
        pipeline: for pictures, with all models.
        texturing: pipeline for uploaded meshes; None if it is not available.
        why_no_texturing: why `texturing` is None, for a client.
        remover: TRELLIS.2's background remover; None unless it is configured.
    """

    upstream: Upstream
    pipeline: Any
    texturing: Any = None
    why_no_texturing: str = "the model is not loaded"
    remover: Any = None
