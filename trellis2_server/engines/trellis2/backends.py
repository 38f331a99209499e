"""The packages that TRELLIS.2's environment variables choose.

    ATTN_BACKEND           dense attention; sparse attention too, unless the next one is set
    SPARSE_ATTN_BACKEND    sparse attention
    SPARSE_CONV_BACKEND    sparse convolution

TRELLIS.2 ignores a value that it does not know, and imports the package in the first job. Here
both are errors at start: an explicit choice is neither replaced silently nor found missing
after the load.

Does not know: the extensions that TRELLIS.2 uses without a choice, see `engines.portable`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trellis2_server.engines import portable

if TYPE_CHECKING:
    from collections.abc import Iterator

DENSE_ATTENTION: Final = "ATTN_BACKEND"
SPARSE_ATTENTION: Final = "SPARSE_ATTN_BACKEND"
CONVOLUTION: Final = "SPARSE_CONV_BACKEND"


@dataclass(frozen=True, slots=True)
class _Package:
    """A package that a variable can choose.

    Attributes:
        name: as it is imported.
        install: how to get it.
        needs_cuda: whether it runs on CUDA only.
    """

    name: str
    install: str
    needs_cuda: bool = True


#: Value of a variable → package; values without a package need none.
_PACKAGES: Final = {
    "xformers": _Package("xformers", "pip install xformers", needs_cuda=False),
    "flash_attn": _Package("flash_attn", "pip install flash-attn --no-build-isolation"),
    "flash_attn_3": _Package(
        "flash_attn_interface", "compile it from the folder hopper of flash-attention"
    ),
    "flex_gemm": _Package("flex_gemm", "compile it as TRELLIS.2's README says"),
    "spconv": _Package("spconv", "install its package for your CUDA", needs_cuda=False),
    "torchsparse": _Package("torchsparse", "compile it as its README says", needs_cuda=False),
}
#: Variable → its values → modules of the package → names that TRELLIS.2 uses.
_CHOICES: Final[dict[str, dict[str, dict[str, tuple[str, ...]]]]] = {
    DENSE_ATTENTION: {
        "xformers": {"xformers.ops": ("memory_efficient_attention",)},
        "flash_attn": {
            "flash_attn": (
                "flash_attn_func",
                "flash_attn_kvpacked_func",
                "flash_attn_qkvpacked_func",
            )
        },
        "flash_attn_3": {"flash_attn_interface": ("flash_attn_func", "flash_attn_qkvpacked_func")},
        "sdpa": {},
        "naive": {},
    },
    SPARSE_ATTENTION: {
        "xformers": {
            "xformers.ops": (
                "memory_efficient_attention",
                "fmha.BlockDiagonalMask.from_seqlens",
            )
        },
        "flash_attn": {
            "flash_attn": (
                "flash_attn_varlen_func",
                "flash_attn_varlen_kvpacked_func",
                "flash_attn_varlen_qkvpacked_func",
            )
        },
        "flash_attn_3": {"flash_attn_interface": ("flash_attn_varlen_func",)},
    },
    # "none", which TRELLIS.2 accepts, has no convolution at all.
    CONVOLUTION: {
        "flex_gemm": {
            "flex_gemm.ops.spconv": (
                "set_algorithm",
                "set_hashmap_ratio",
                "sparse_submanifold_conv3d",
            )
        },
        "spconv": {"spconv.pytorch": ("SubMConv3d", "SparseConvTensor")},
        "torchsparse": {"torchsparse": ("SparseTensor", "nn.Conv3d")},
    },
}


def replaced_extensions() -> dict[str, str]:
    """Return extensions that are not used, and the packages that are chosen instead of them."""
    chosen = _sparse_attention()[1]
    if chosen in {"xformers", "flash_attn_3"}:
        return {"flash_attn": _PACKAGES[chosen].name}
    return {}


def problems(device: str) -> list[str]:
    """Return what is wrong with each choice and what to do; import the chosen packages.

    Args:
        device: PyTorch's name of the device.
    """
    return list(dict.fromkeys(_problems(device)))


def _problems(device: str) -> Iterator[str]:
    for variable, choices in _CHOICES.items():
        value = os.environ.get(variable)
        if not value:
            continue
        if value not in choices:
            yield (
                f"{variable}={value}: TRELLIS.2 has no such backend; use "
                f"{', '.join(choices)}, or unset {variable}"
            )
        else:
            yield from _unusable(variable, value, choices[value], device)
    variable, value = _sparse_attention()
    if variable == DENSE_ATTENTION and value in _CHOICES[SPARSE_ATTENTION]:
        yield from _unusable(variable, value, _CHOICES[SPARSE_ATTENTION][value], device)


def _unusable(
    variable: str, value: str, used: dict[str, tuple[str, ...]], device: str
) -> Iterator[str]:
    package = _PACKAGES.get(value)
    if package is None:
        return
    if package.needs_cuda and device.partition(":")[0] != "cuda":
        yield (
            f"{variable}={value}: {package.name} runs on CUDA only, and model.device is "
            f"{device}: unset {variable}"
        )
        return
    why = portable.why_unusable(package.name, used)
    if why:
        yield (
            f"{variable}={value}: {package.name} is {why}: {package.install}, or unset {variable}"
        )


def _sparse_attention() -> tuple[str, str]:
    """Variable that chooses sparse attention, and its value; "" without a choice."""
    value = os.environ.get(SPARSE_ATTENTION)
    if value is not None:
        return SPARSE_ATTENTION, value
    return DENSE_ATTENTION, os.environ.get(DENSE_ATTENTION, "")
