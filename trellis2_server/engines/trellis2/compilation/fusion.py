"""Element-wise parts of a transformer block, each as one compiled function.

Between its matrix products and attentions, a block reads and writes its tokens many times:
norms, modulation, gates, rotary positions. `torch.compile` makes one or two kernels of each of
the functions here. They take plain tensors, so that nothing but shapes and dtypes is fixed by
compilation; the number of tokens is not.

    T   tokens          C   channels
    H   heads           D   channels of a head

Operations and their order are those of TRELLIS.2's blocks. Not compiled, the results are
bit-identical; compiled, they are equal to rounding.

Does not know: blocks, sparse tensors, attention.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

torch: Any = importlib.import_module("torch")
Tensor = Any

#: Largest difference of compiled functions, of the largest value; by dtype, for `difference`.
TOLERANCES: Final = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def norm_and_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Norm of `x` [T, C], times 1 + `scale` [1, C], plus `shift` [1, C]."""
    return _norm(x, None, None, eps) * (1 + scale) + shift


def gate_add_and_norm(  # noqa: PLR0913, PLR0917 - the tensors of one kernel
    x: Tensor, h: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`x` + `h` · `gate`, and its affine norm; `x` and `h` are [T, C], `gate` [1, C]."""
    x = x + h * gate
    return x, _norm(x, weight, bias, eps)


def add_norm_and_modulate(
    x: Tensor, h: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`x` + `h`, and its norm modulated as in `norm_and_modulate`."""
    x = x + h
    return x, norm_and_modulate(x, shift, scale, eps)


def gate_and_add(x: Tensor, h: Tensor, gate: Tensor) -> Tensor:
    """`x` + `h` · `gate`; `x` and `h` are [T, C], `gate` [1, C]."""
    return x + h * gate


def rms_norm(x: Tensor, gamma: Tensor, scale: float) -> Tensor:
    """`x` [T, H, D] with each head's vector of length 1, times `gamma` [H, D] and `scale`."""
    unit = torch.nn.functional.normalize(x.float(), dim=-1)
    return (unit * gamma * scale).to(x.dtype)


def norm_heads(qkv: Tensor, q_gamma: Tensor, k_gamma: Tensor, scale: float) -> Tensor:
    """`qkv` [T, 3, H, D] with queries and keys normed as in `rms_norm`."""
    q, k, v = qkv.unbind(1)
    return torch.stack([rms_norm(q, q_gamma, scale), rms_norm(k, k_gamma, scale), v], dim=1)


def norm_and_rotate_heads(
    qkv: Tensor, q_gamma: Tensor, k_gamma: Tensor, scale: float, rotations: Tensor
) -> Tensor:
    """`norm_heads`, and queries and keys rotated by their positions.

    `rotations` is float32 [T, D / 2, 2]: cosine and sine for each pair of channels.
    """
    q, k, v = qkv.unbind(1)
    q = _rotate(rms_norm(q, q_gamma, scale), rotations)
    k = _rotate(rms_norm(k, k_gamma, scale), rotations)
    return torch.stack([q, k, v], dim=1)


def rotate_heads(qkv: Tensor, rotations: Tensor) -> Tensor:
    """`qkv` [T, 3, H, D] with queries and keys rotated; see `norm_and_rotate_heads`."""
    q, k, v = qkv.unbind(1)
    return torch.stack([_rotate(q, rotations), _rotate(k, rotations), v], dim=1)


def difference(result: Tensor, expected: Tensor) -> float:
    """Largest difference, of the largest value; infinite if a value is not finite."""
    result, expected = result.float(), expected.float()
    largest = expected.abs().max().item() or 1.0
    found = (result - expected).abs().max().item() / largest
    return found if found == found else float("inf")  # noqa: PLR0124 - not a number


def compile_in_this_process() -> None:
    """Let PyTorch start no processes for compilation, unless an environment variable asks for them.

    It would start one per core, each with PyTorch imported, for eight small kernels.
    """
    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:
        config: Any = importlib.import_module("torch._inductor.config")
        config.compile_threads = 1


def compiled(function: Callable[..., Any], backend: Any) -> Callable[..., Any]:
    """Compile one of the functions here for any number of rows.

    Args:
        function: takes tensors and numbers.
        backend: of `torch.compile`.
    """
    fused = torch.compile(function, backend=backend, fullgraph=True)
    mark: Any = importlib.import_module("torch._dynamo").maybe_mark_dynamic

    def call(x: Tensor, *args: Any) -> Any:
        tokens = x.shape[0]
        for value in (x, *args):
            if isinstance(value, torch.Tensor) and value.shape[0] == tokens > 1:
                mark(value, 0)
        return fused(x, *args)

    return call


def _norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    normed = torch.nn.functional.layer_norm(x.float(), x.shape[-1:], weight, bias, eps)
    return normed.to(x.dtype)


def _rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """`x` [T, H, D], its pairs of channels rotated."""
    real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = rotations.unsqueeze(1).unbind(-1)
    rotated = [real * cosine - imaginary * sine, real * sine + imaginary * cosine]
    return torch.stack(rotated, dim=-1).flatten(-2).to(x.dtype)
