"""The preview engine: a cut-out becomes an inflated, textured solid, without any weights.

All its results are labelled `preview`. The silhouette is triangulated, and its triangles raised to
the height of the largest balls inside the outline, or made a plate, or a solid of revolution. On it
is a relief: inner contours separate bulges, and dark is deep. The front has the picture's colours;
the back has them too, or a texture that is made of them.
After T. Igarashi et al., "Teddy: a sketching interface for 3D freeform design", SIGGRAPH 1999,
and P. Joshi and N. Carr, "Repoussé: automatic inflation of 2D artwork", SBM 2008; textures after
C. Barnes et al., "PatchMatch", SIGGRAPH 2009.

    engine        `PreviewEngine`
    back          picture → what the back has
    face          picture → where a face is
    silhouette    picture → flat triangles
    pixels        picture → a small grid in a perceptual colour space
    outline, shading   what the object looks like: symmetric, curved
    depth         flat, round or turned: heights without relief
    relief        differences in height from inner contours and lightness
    heightmap     heights of front and back on the grid
    solid         flat triangles and heights → closed mesh
    sheets        picture → colours of front and back
    filling       a texture for the back from the front's outer parts
    voxels        colours of front and back → field around the mesh
    projection    picture → colours of an uploaded mesh
    views         pictures of other sides: depth and colours
    kernels       compiled loops

Does not know: files, HTTP, jobs, how a mesh becomes a GLB, what the object's other side looks
like.
"""

from __future__ import annotations

from trellis2_server.engines.preview.engine import PREVIEW_DEFAULTS, PreviewEngine

__all__ = ["PREVIEW_DEFAULTS", "PreviewEngine"]
