"""Deviations of a guided step, without checks that wait for the device.

The rescaling of guidance takes two standard deviations over the voxels. PyTorch checks the
lengths of the sequences in each of their four means, and reads both results of a check from the
device. TRELLIS.2's lengths come from its layout: they are right.

Does not know: samplers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.trellis2.patches.patch import Patch
from trellis2_server.engines.trellis2.patches.scope import active

if TYPE_CHECKING:
    from collections.abc import Callable

NAME: Final = "guidance"
_REDUCE: Final = "trellis2.modules.sparse.basic:VarLenTensor.reduce"
_LENGTHS: Final = "trellis2.modules.sparse.basic:SparseTensor.seqlen"


def _replace(original: Any) -> Callable[..., Any]:
    torch: Any = importlib.import_module("torch")

    def reduce(self: Any, op: str, dim: Any = None, keepdim: bool = False) -> Any:  # noqa: FBT001, FBT002 - TRELLIS.2's signature
        dims = (dim,) if isinstance(dim, int) else tuple(dim or (0,))
        if op != "mean" or 0 in dims or active(NAME) is None:
            return original(self, op, dim, keepdim)
        rows = self.feats.mean(dim=dims, keepdim=keepdim)
        return torch.segment_reduce(rows, op, lengths=self.seqlen, unsafe=True)

    return reduce


PATCH: Final = Patch(
    NAME,
    is_exact=True,
    sources={_REDUCE: "c79cfa4defc3fbb3", _LENGTHS: "cd1d2f7d92c78495"},
    replacements={_REDUCE: _replace},
)
