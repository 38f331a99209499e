"""The embedded engine: a cut-out becomes an inflated, textured solid, without any weights.

It is honest about what it is: everything it serves says `preview`. The silhouette is
triangulated, inflated (height ∝ √u, where ∇²u = -4 inside and u = 0 on the outline) and
mirrored for the back; the picture is laid on the front, and a version of it that loses
detail away from the outline on the back. After T. Igarashi et al., "Teddy: a sketching
interface for 3D freeform design", SIGGRAPH 1999, and P. Joshi and N. Carr, "Repoussé:
automatic inflation of 2D artwork", SBM 2008.

What this package does not know: files, HTTP, jobs, how a mesh becomes a GLB, and what the
object's other side looks like.
"""

from __future__ import annotations

from trellis2_server.engines.preview.engine import PreviewEngine

__all__ = ["PreviewEngine"]
