"""`model.attention` in TRELLIS.2: which of its attention functions are PyTorch's.

    dense attention    of the structure model. Replaced by `portable.attention.dense_attention`
                       where TRELLIS.2 would call PyTorch's
    sparse attention   of all other models. Calls `flash_attn`, or its stand-in, which is
                       `portable.attention`

An installed `flash_attn` serves both with `auto`, as in TRELLIS.2. A kernel that is named in
`model.attention` replaces it, in both. xformers and FlashAttention 3, which an operator chooses
by `ATTN_BACKEND`, are left alone.

Does not know: kernels, devices.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines import portable

if TYPE_CHECKING:
    from trellis2_server.engines.portable.attention_kernels import Setting

logger = logging.getLogger(__name__)

#: TRELLIS.2's dense attention: its settings, its function, and the module that calls it.
_DENSE: Final = tuple(f"trellis2.modules.attention.{m}" for m in ("config", "full_attn", "modules"))
_DENSE_NAME: Final = "scaled_dot_product_attention"
_SPARSE_CONFIG: Final = "trellis2.modules.sparse.config"
_SPARSE_NAMES: Final = (
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
)
#: Functions of an installed flash_attn that are replaced.
_replaced: dict[str, Any] = {}


def install(setting: Setting) -> None:
    """Apply `model.attention` to the imported package; a second call may change it.

    Args:
        setting: `model.attention`.
    """
    kernels: Any = importlib.import_module("trellis2_server.engines.portable.attention_kernels")
    kernels.configure(setting)
    attention: Any = importlib.import_module("trellis2_server.engines.portable.attention")
    for part, backend in (
        ("dense", _install_dense(setting, attention)),
        ("sparse", _install_sparse(setting, attention)),
    ):
        if backend and setting != "auto":
            logger.warning(
                "model.attention has no effect on a part of TRELLIS.2",
                extra={"part": part, "backend": backend},
            )


def _install_dense(setting: Setting, attention: Any) -> str:
    """Choose the dense attention; return the backend that was left alone, if any."""
    if importlib.util.find_spec("trellis2.modules") is None or any(
        importlib.util.find_spec(name) is None for name in (_DENSE[0].rpartition(".")[0], *_DENSE)
    ):
        return ""
    config, function, caller = (importlib.import_module(name) for name in _DENSE)
    upstream = getattr(function, _DENSE_NAME, None)
    current = getattr(caller, _DENSE_NAME, None)
    if upstream is None or current not in {upstream, attention.dense_attention}:
        return "another function"
    backend = getattr(config, "BACKEND", "")
    is_ours = backend == "sdpa" or (setting != "auto" and backend == "flash_attn")
    # TRELLIS.2 imports PyTorch's function anew in each call: a replaced one in its module is not
    # used, and an attribute of that name breaks it. So the function around it is replaced.
    setattr(caller, _DENSE_NAME, attention.dense_attention if is_ours else upstream)
    return "" if is_ours else backend


def _install_sparse(setting: Setting, attention: Any) -> str:
    """Choose the sparse attention; return the backend that was left alone, if any."""
    config = sys.modules.get(_SPARSE_CONFIG)
    backend = getattr(config, "ATTN", "flash_attn")
    if backend != "flash_attn":
        return backend
    package = sys.modules.get("flash_attn")
    if package is None or portable.is_standin("flash_attn"):
        return ""
    for name in _SPARSE_NAMES:
        if setting == "auto":
            if name in _replaced:
                setattr(package, name, _replaced.pop(name))
        else:
            _replaced.setdefault(name, getattr(package, name, None))
            setattr(package, name, getattr(attention, name))
    return ""
