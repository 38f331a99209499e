"""TRELLIS.2 behind the `Engine` protocol.

    environment   finds the `trellis2` package, its extensions and the device; says what is missing
    checkpoint    the weights' files: found or downloaded, and checked before they are loaded
    encoder       the image encoder, on any device and with transformers 4 or 5
    loading       from checked files to a pipeline
    engine        the two stages
    upstream_glb  TRELLIS.2's own exporter
    inspection    what `--check` prints

Importing this package imports none of torch, transformers or trellis2.
"""

from trellis2_server.engines.trellis2.engine import Trellis2Engine
from trellis2_server.engines.trellis2.environment import why_not
from trellis2_server.engines.trellis2.inspection import Finding, inspect_trellis2

__all__ = ["Finding", "Trellis2Engine", "inspect_trellis2", "why_not"]
