"""Modulations of one picture's voxels, without a copy of the modulation for each voxel.

TRELLIS.2 repeats the row [1, C] with which a block scales or shifts its tokens for each of the T
tokens, six times a block. PyTorch broadcasts the row itself: each element is computed from the
same numbers by the same operation.

Does not know: blocks, samplers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.trellis2.patches.patch import Patch
from trellis2_server.engines.trellis2.patches.scope import active

if TYPE_CHECKING:
    from collections.abc import Callable

NAME: Final = "modulation"
_ELEMWISE: Final = "trellis2.modules.sparse.basic:SparseTensor.__elemwise__"
_REPLACE: Final = "trellis2.modules.sparse.basic:SparseTensor.replace"


def _replace(original: Any) -> Callable[..., Any]:
    torch: Any = importlib.import_module("torch")

    def elemwise(self: Any, other: Any, op: Callable[[Any, Any], Any]) -> Any:
        if isinstance(other, torch.Tensor) and active(NAME) and self.shape[0] == 1:
            try:
                # The number of dimensions decides on the result's dtype.
                row = torch.broadcast_to(other, self.shape)
            except RuntimeError:
                return original(self, other, op)  # a value for each voxel
            return self.replace(op(self.feats, row))
        return original(self, other, op)

    return elemwise


PATCH: Final = Patch(
    NAME,
    is_exact=True,
    sources={_ELEMWISE: "7b6fc1a2deeb909b", _REPLACE: "89e48202408e1fd4"},
    replacements={_ELEMWISE: _replace},
)
