"""How PyTorch's allocator on CUDA reserves memory.

Jobs differ in their numbers of tokens and voxels. With segments of fixed sizes, freed memory
stays in pieces that the next job cannot use; with expandable segments it does not. TRELLIS.2's
own application chooses them, too.

Does not know: PyTorch: it reads the choice when it is imported, or when it first allocates.
"""

from __future__ import annotations

import os
import sys
from typing import Final

#: The older variable is read by all versions of PyTorch, the newer one from 2.9 on.
_VARIABLES: Final = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_CHOICE: Final = "expandable_segments:True"


def prefer_expandable_segments(device: str) -> None:
    """Choose expandable segments for a CUDA device, unless the operator chose something.

    To be called before PyTorch is imported. Windows does not have them. Tensors in such segments
    can be shared with other processes only by recent drivers and versions of PyTorch; this
    server shares none. Virtual GPUs without CUDA's virtual memory do not have them either: the
    operator sets `PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False` there.
    """
    is_chosen = any(variable in os.environ for variable in _VARIABLES)
    if device.partition(":")[0] == "cuda" and sys.platform == "linux" and not is_chosen:
        os.environ[_VARIABLES[0]] = _CHOICE
