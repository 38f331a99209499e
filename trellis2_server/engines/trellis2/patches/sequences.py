"""Bounds of sequences for attention, copied to the device once a stage.

TRELLIS.2 makes them anew on the CPU for each attention: three copies a block that each wait for
the device, 90 in one evaluation of a model with 30 blocks. They depend on the lengths only,
which stay the same within a stage.

Covers `flash_attn` and `flash_attn_3`; for xformers, TRELLIS.2's function makes a mask.
TRELLIS.2's windowed attention keeps its bounds itself, and no released model uses it.

Does not know: which kernel attends.
"""

from __future__ import annotations

import importlib
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.trellis2.patches.patch import Patch
from trellis2_server.engines.trellis2.patches.scope import active

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.engines.trellis2.patches.scope import SamplingScope

    Tensor = Any

NAME: Final = "sequences"
_ATTENTION: Final = (
    "trellis2.modules.sparse.attention.full_attn:sparse_scaled_dot_product_attention"
)
#: Backends of TRELLIS.2 that take the bounds of sequences → their packages.
_PACKAGES: Final = {"flash_attn": "flash_attn", "flash_attn_3": "flash_attn_interface"}
#: Number of arguments → dimensions of the rows of each: qkv; q and kv; q, k and v.
_DIMENSIONS: Final = {1: (4,), 2: (3, 4), 3: (3, 3, 3)}


def _replace(original: Any) -> Callable[..., Any]:
    torch: Any = importlib.import_module("torch")
    varlen: Any = importlib.import_module("trellis2.modules.sparse.basic").VarLenTensor
    config: Any = importlib.import_module("trellis2.modules.sparse.config")

    def rows(value: Any) -> tuple[Tensor, tuple[int, ...]]:
        """Rows of all sequences, and the sequences' lengths."""
        if isinstance(value, varlen):
            return value.feats, tuple(part.stop - part.start for part in value.layout)
        return value.flatten(0, 1), (value.shape[1],) * value.shape[0]

    def bounds(scope: SamplingScope, lengths: tuple[int, ...], device: Any) -> Tensor:
        def make() -> Tensor:
            return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)

        return scope.keep((NAME, lengths, device), make)

    def attend(*args: Any, **kwargs: Any) -> Any:
        scope = active(NAME)
        if (
            scope is None
            or kwargs
            or config.ATTN not in _PACKAGES
            or len(args) not in _DIMENSIONS
            or not isinstance(args[0], varlen)
        ):
            return original(*args, **kwargs)
        tensors, lengths = zip(*map(rows, args), strict=True)
        if (
            tuple(tensor.dim() for tensor in tensors) != _DIMENSIONS[len(args)]
            or len({len(found) for found in lengths}) > 1
            or len(set(lengths[1:])) > 1
        ):
            return original(*args)  # which raises
        device = tensors[0].device
        queries, keys = lengths[0], lengths[-1]
        of_queries = bounds(scope, queries, device)
        of_keys = bounds(scope, keys, device)
        package: Any = importlib.import_module(_PACKAGES[config.ATTN])
        if config.ATTN == "flash_attn" and len(args) == 1:
            out = package.flash_attn_varlen_qkvpacked_func(*tensors, of_queries, max(queries))
        elif config.ATTN == "flash_attn" and len(args) == 2:  # noqa: PLR2004 - q, kv
            out = package.flash_attn_varlen_kvpacked_func(
                *tensors, of_queries, of_keys, max(queries), max(keys)
            )
        else:
            # flash_attn_3 has no packed functions.
            packed = tensors[-1]
            q, k, v = tensors if len(args) == len("qkv") else (*tensors[:-1], *packed.unbind(1))
            out = package.flash_attn_varlen_func(
                q, k, v, of_queries, of_keys, max(queries), max(keys)
            )
        return args[0].replace(out)

    return attend


PATCH: Final = Patch(
    NAME,
    is_exact=True,
    sources={_ATTENTION: "a5a36e34e2db0ae5"},
    replacements={_ATTENTION: _replace},
)
