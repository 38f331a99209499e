"""Connected parts of a mesh: which are small and detached, which faces have to be flipped.

Does not know: duplicate faces, holes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.export.adjacency import NON_MANIFOLD, next_half_edges
from trellis2_server.export.cancellation import call
from trellis2_server.export.kernels import parts as kernels
from trellis2_server.export.parallel import parallel_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: A group of parts that continue each other is a floater if the diagonal of its bounding box is
#: below this share of the largest one's …
FLOATER_SIZE: Final = 0.02
#: … and its area is below this share of the largest one's.
FLOATER_AREA: Final = 1e-3
#: Number of chunks of the list of faces in which faces are united in parallel.
_CHUNKS: Final = 16
#: The winding of a mesh is intended if no more than this share of its area is inconsistent with the
#: rest of its part. The winding of dual grids is not.
_MAX_INCONSISTENT: Final = 0.1
#: The winding of a part is random if more than this share of its area is inconsistent with the
#: rest.
_RANDOM_WINDING: Final = 0.4
#: An open part is convex enough to tell its outside if its volume, divided by its area, exceeds
#: this share of its mean edge length.
_MIN_BULGE: Final = 0.1


class Parts:
    """Sets of faces that are connected through edges with exactly two faces.

    If a part cannot be wound consistently, like a Moebius strip, its inconsistent edges are placed
    at folds rather than where it is smooth.

    At an edge with more than two faces, parts continue each other, the two with the smallest angle
    first. Their winding there does not tell which side is outside: touching tubes seem to continue
    into each other's inside. So a convex part decides by itself, and the other parts, mostly strips
    along such edges, follow their neighbours.

    Args:
        vertices: float32 [N, 3].
        faces: int32 [F, 3].
        twin: int32 [3 F], see `adjacency.twins`.

    Attributes:
        count: number of parts.
    """

    def __init__(
        self, vertices: NDArray[np.float32], faces: NDArray[np.int32], twin: NDArray[np.int32]
    ) -> None:
        neighbour, is_consistent = np.empty(twin.size, np.int32), np.empty(twin.size, bool)
        parallel_for(kernels.find_neighbours, len(faces), faces, twin, neighbour, is_consistent)
        # Folds are needed only if there is a conflict.
        fold = np.zeros(twin.size, np.uint8)
        root = np.empty(len(faces), np.int32)
        if _unite(neighbour, is_consistent, fold, root, 0):
            parallel_for(
                kernels.find_folds, len(faces), vertices, faces, neighbour, is_consistent, fold
            )
            _unite(neighbour, is_consistent, fold, root, 2)
        self._part, self._flip = np.empty(len(faces), np.int32), np.empty(len(faces), bool)
        self.count = call(kernels.number_parts, root, self._part, self._flip)
        self._is_open = np.zeros(self.count, bool)
        self._low = np.full((self.count, 3), np.inf, np.float32)
        self._high = np.full((self.count, 3), -np.inf, np.float32)
        self._sums = np.zeros((self.count, 10))
        origin = np.full(self.count, -1, np.int32)
        call(
            kernels.measure_parts, vertices, faces, neighbour, is_consistent, self._part,
            self._flip, self._is_open, origin, self._low, self._high, self._sums,
        )  # fmt: skip
        self._pairs, self._votes = self._find_continuations(vertices, faces, twin)

    @property
    def labels(self) -> NDArray[np.int32]:
        """The number of each face's part, int32 [F]."""
        return self._part

    def _find_continuations(
        self, vertices: NDArray[np.float32], faces: NDArray[np.int32], twin: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the pairs of parts that continue each other, strongest first.

        Returns:
            int32 [2, P], the parts.
            float64 [P], length times smoothness of the common edges; negative if the winding of the
                two parts is inconsistent.
        """
        one, two, cosine = _pair_sheets(vertices, faces, twin)
        f, g = one // 3, two // 3
        corner = faces.reshape(-1)
        start = corner[one]
        ends = corner[next_half_edges(one)]
        weight = cosine * np.linalg.norm(vertices[ends] - vertices[start], axis=1)
        is_consistent = start != corner[two]
        weight[is_consistent != (self._flip[f] == self._flip[g])] *= -1.0
        low, high = np.sort(np.stack([self._part[f], self._part[g]]), axis=0).astype(np.int64)
        pair, inverse = np.unique(low * self.count + high, return_inverse=True)
        votes = np.bincount(inverse, weight, len(pair)).astype(np.float64)
        order = np.argsort(-np.abs(votes), kind="stable")
        pairs = np.stack(np.divmod(pair[order], self.count)).astype(np.int32)
        is_two = pairs[0] != pairs[1]
        return np.ascontiguousarray(pairs[:, is_two]), votes[order][is_two]

    def find_floaters(self) -> NDArray[np.bool_]:
        """Return which faces belong to floaters, bool [F].

        Floaters are detached parts that are small together with all parts that continue them.
        """
        root = 2 * np.arange(self.count, dtype=np.int32)
        one, two = self._pairs
        call(kernels.unite_parts, one, two, self._votes > 0.0, root)
        group, flip = np.empty(self.count, np.int32), np.empty(self.count, bool)
        count = call(kernels.number_parts, root, group, flip)
        area = np.bincount(group, self._sums[:, :2].sum(axis=1), count)
        low = np.full((3, count), np.inf, np.float32)
        high = np.full((3, count), -np.inf, np.float32)
        for axis in range(3):  # NumPy is slow for all axes at once
            np.minimum.at(low[axis], group, self._low[:, axis])
            np.maximum.at(high[axis], group, self._high[:, axis])
        size = np.linalg.norm(high - low, axis=0)
        whole = float(np.linalg.norm(high.max(axis=1) - low.min(axis=1)))
        is_floater = (size < FLOATER_SIZE * whole) & (area < FLOATER_AREA * area.max())
        return is_floater[group][self._part]

    def find_flipped(self) -> NDArray[np.bool_]:
        """Return which faces have to be flipped for a consistent, outward winding, bool [F]."""
        kept, flipped = self._sums[:, :2].T
        area = kept + flipped
        # The volume of an open part depends on the origin: the centroid of its area.
        bulge = self._sums[:, 2] - (self._sums[:, 3:6] * self._sums[:, 6:9]).sum(axis=1) / (
            3.0 * area + 1e-300
        )
        if np.minimum(kept, flipped).sum() < _MAX_INCONSISTENT * area.sum():
            is_sure = np.ones(self.count, bool)
            is_inside_out = np.where(self._is_open, flipped > kept, bulge < 0.0)
        else:
            edge = np.sqrt(area / self._sums[:, 9])
            is_sure = ~self._is_open | (np.abs(bulge) > 3.0 * _MIN_BULGE * area * edge)
            is_inside_out = bulge < 0.0
        # An additional part that is united with all parts whose outside is known.
        root = 2 * np.arange(self.count + 1, dtype=np.int32)
        sure = np.flatnonzero(is_sure).astype(np.int32)
        call(kernels.unite_parts, sure, np.full_like(sure, self.count), ~is_inside_out[sure], root)
        is_decided = self._votes != 0.0
        one, two = self._pairs[:, is_decided]
        call(kernels.unite_parts, one, two, self._votes[is_decided] > 0.0, root)
        groups, flips = np.empty(len(root), np.int32), np.empty(len(root), bool)
        count = call(kernels.number_parts, root, groups, flips)
        group, flip = groups[:-1], flips[:-1]
        # Groups without such a part keep the winding of most of their area, unless it is random.
        first = np.bincount(group, np.where(flip, flipped, kept), count)
        second = np.bincount(group, np.where(flip, kept, flipped), count)
        volume = np.bincount(group, np.where(flip, -bulge, bulge), count)
        is_random = np.minimum(first, second) >= _RANDOM_WINDING * (first + second)
        is_flipped = np.where(is_random, volume < 0.0, second > first)
        is_flipped[groups[-1]] = flips[-1]
        return (is_flipped[group] != flip)[self._part] != self._flip


def flip_faces(faces: NDArray[np.int32], is_flipped: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Reverse the winding of some faces.

    Args:
        faces: int32 [F, 3].
        is_flipped: bool [F].
    """
    flipped = np.empty_like(faces)
    parallel_for(kernels.flip_faces, len(faces), faces, is_flipped, flipped)
    return flipped


def _pair_sheets(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], twin: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pair the faces at edges with more than two of them, smoothest pairs first.

    Returns:
        int64 [P], the first half-edge of each pair.
        int64 [P], the second.
        float64 [P], the cosine of the angle between their faces, above 0.5.
    """
    half = np.flatnonzero(twin == NON_MANIFOLD)
    corner = faces.reshape(-1)
    edge = np.sort(np.stack([corner[half], corner[next_half_edges(half)]]), axis=0)
    order = np.lexsort(edge)
    half, edge = half[order], edge[:, order]
    is_first = np.ones(half.size + 1, bool)
    is_first[1:-1] = (edge[:, 1:] != edge[:, :-1]).any(axis=0)
    partner, cosine = np.empty(half.size, np.int64), np.empty(half.size)
    call(kernels.pair_smoothest, vertices, faces, half, np.flatnonzero(is_first), partner, cosine)
    is_first_of_pair = partner > half
    return half[is_first_of_pair], partner[is_first_of_pair], cosine[is_first_of_pair]


def _unite(
    neighbour: NDArray[np.int32],
    is_consistent: NDArray[np.bool_],
    fold: NDArray[np.uint8],
    root: NDArray[np.int32],
    folds: int,
) -> bool:
    """Unite faces to parts and return whether some faces cannot be wound consistently.

    Args:
        neighbour: int32 [3 F], the face on the other side of each edge.
        is_consistent: bool [3 F], whether the winding of that face is consistent.
        fold: uint8 [3 F], sharpness of the edge: 0 … `folds`.
        root: int32 [F], output.
        folds: at least 0.
    """
    has_conflict = np.zeros(_CHUNKS, bool)
    parallel_for(
        kernels.unite_within_chunks, _CHUNKS, _CHUNKS, neighbour, is_consistent, fold, root,
        has_conflict, grain=1,
    )  # fmt: skip
    return call(
        kernels.unite_across_chunks, _CHUNKS, folds, neighbour, is_consistent, fold, root
    ) or bool(has_conflict.any())
