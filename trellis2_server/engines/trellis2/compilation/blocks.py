"""Transformer blocks of the flow models with their element-wise parts compiled.

Each block gets a `forward` of its own, which calls TRELLIS.2's linear layers, attention and
feed-forward network, and the functions of `fusion` for all that is between them. A block is not
compiled as a whole: its sparse tensors are objects with caches, on whose contents a compiled
block would depend, and attention chooses its kernel by length. Weights are passed in each call,
so they may move between calls.

What may go wrong ends with the blocks as TRELLIS.2 has them and one warning: a missing
compiler, an operation that cannot be compiled, a result that is not close enough. The compiled
functions are checked when the model loads, the first block of each class in its first call.

Does not know: samplers, stages, which kernel attention takes.
"""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.trellis2.compilation import fusion
from trellis2_server.engines.trellis2.compilation.externals import visible
from trellis2_server.engines.trellis2.device_errors import (
    first_line,
    is_out_of_memory,
    is_permanent,
    release_frames,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

torch: Any = fusion.torch
Tensor = Any

_FUNCTIONS: Final = (
    fusion.norm_and_modulate,
    fusion.gate_add_and_norm,
    fusion.add_norm_and_modulate,
    fusion.gate_and_add,
    fusion.rms_norm,
    fusion.norm_heads,
    fusion.norm_and_rotate_heads,
    fusion.rotate_heads,
)
#: Rows of the tensors with which functions are checked.
_CHECKED_ROWS: Final = 96
_ROTATIONS: Final = "trellis2_server_rotations"


class FusedBlocks:
    """The blocks of the flow models.

    Args:
        backend: of `torch.compile`.

    Attributes:
        functions: those of `fusion`, compiled, by name.
        failed: why the blocks are as TRELLIS.2 has them; None while they are fused.
    """

    def __init__(self, backend: Any = "inductor") -> None:
        self.failed: str | None = None
        self.functions: Any = None
        self._backend = backend
        self._replaced: list[Any] = []
        self._checked: set[type] = set()

    def install(self, models: Iterable[Any], device: str) -> None:
        """Compile what the models need, and replace their blocks' `forward`.

        Args:
            models: flow models.
            device: PyTorch's name of the device that computes.
        """
        blocks = [block for model in models for block in getattr(model, "blocks", ())]
        unfit = next(filter(None, map(_why_unfit, blocks)), None)
        if unfit or not blocks:
            self._note_failed(unfit or "the models have no blocks")
            return
        try:
            fusion.compile_in_this_process()
            self.functions = SimpleNamespace(
                **{f.__name__: visible(fusion.compiled(f, self._backend)) for f in _FUNCTIONS}
            )
            with torch.inference_mode():
                for kind in {_kind(block): block for block in blocks}.values():
                    self._check_functions(kind, device)
        except Exception as error:
            if is_permanent(error):
                raise
            self._note_failed(_reason(error))
            return
        for block in blocks:
            self._replace(block, _FusedBlock(self, block))
            for attention in (block.self_attn, block.cross_attn):
                if attention.qk_rms_norm:
                    for norm in (attention.q_rms_norm, attention.k_rms_norm):
                        self._replace(norm, _FusedNorm(self, norm))

    def must_check(self, block: Any) -> bool:
        """Whether no result of this class of block has been compared."""
        return type(block) not in self._checked

    def note_checked(self, block: Any) -> None:
        """Note that a result of this class of block was right."""
        self._checked.add(type(block))

    def give_up(self, error: Exception) -> None:
        """Use the blocks as TRELLIS.2 has them from now on.

        Raises:
            Exception: the given one, if they would not help.
        """
        if is_out_of_memory(error) or is_permanent(error):
            raise error
        for module in self._replaced:
            module.__dict__.pop("forward", None)
        self._replaced.clear()
        self._note_failed(_reason(error))
        release_frames(error)

    def _replace(self, module: Any, forward: Any) -> None:
        module.forward = forward
        self._replaced.append(module)

    def _note_failed(self, why: str) -> None:
        self.failed = why
        logger.warning("model.compile: blocks: not compiled: %s", why)

    def _check_functions(self, block: Any, device: str) -> None:
        """Compile the functions that a block calls.

        Raises:
            RuntimeError: a function's result is not close enough.
            Exception: as PyTorch raises it, for example without a compiler.
        """
        for name, arguments in _examples(block, device):
            expected = getattr(fusion, name)(*arguments)
            result = getattr(self.functions, name)(*arguments)
            pairs = zip(result, expected, strict=True) if isinstance(result, tuple) else ()
            for one, other in pairs or ((result, expected),):
                _require_close(one, other, name)


class _FusedBlock:
    """`forward` of a block, for one picture."""

    def __init__(self, blocks: FusedBlocks, block: Any) -> None:
        self._blocks = blocks
        self._block = block
        self._forward = block.forward

    def __call__(self, x: Any, mod: Tensor, context: Any, phases: Tensor | None = None) -> Any:
        """Output of the block: a sparse tensor, or [1, T, C], as `x` is."""
        rest = () if phases is None else (phases,)
        if x.shape[0] != 1 or mod.shape[0] != 1:
            return self._forward(x, mod, context, *rest)
        try:
            result = self._fused(x, mod, context, phases)
            if not self._blocks.must_check(self._block):
                return result
            expected = self._forward(x, mod, context, *rest)
            _require_close(_rows(result), _rows(expected), type(self._block).__name__)
            self._blocks.note_checked(self._block)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job goes on
            self._blocks.give_up(error)
        else:
            return result
        # Here, outside of `except`, the error no longer holds tensors on the device.
        return self._forward(x, mod, context, *rest)

    def _fused(self, x: Any, mod: Tensor, context: Any, phases: Tensor | None) -> Any:
        block, functions = self._block, self._blocks.functions
        if block.share_mod:
            modulation = (block.modulation + mod).type(mod.dtype)
        else:
            modulation = block.adaLN_modulation(mod)
        shift, scale, gate, last_shift, last_scale, last_gate = modulation.chunk(6, dim=1)
        norm2 = block.norm2
        rows = _rows(x)
        h = functions.norm_and_modulate(rows, shift, scale, block.norm1.eps)
        h = self._attend(x, h, phases)
        rows, h = functions.gate_add_and_norm(rows, h, gate, norm2.weight, norm2.bias, norm2.eps)
        # The patch `negative` gives one row for all tokens: with other strides, the function would
        # be compiled once more, within a job.
        h = _rows(block.cross_attn(_with_rows(x, h), context)).contiguous()
        rows, h = functions.add_norm_and_modulate(rows, h, last_shift, last_scale, block.norm3.eps)
        h = _rows(block.mlp(_with_rows(x, h)))
        return _with_rows(x, functions.gate_and_add(rows, h, last_gate))

    def _attend(self, x: Any, h: Tensor, phases: Tensor | None) -> Tensor:
        """Self-attention of `h` [T, C], on the voxels of `x`."""
        attention, functions = self._block.self_attn, self._blocks.functions
        qkv = attention.to_qkv(h).unflatten(-1, (3, attention.num_heads, -1))
        rotations = _rotations(attention, x, phases) if attention.use_rope else None
        if attention.qk_rms_norm:
            q, k = attention.q_rms_norm, attention.k_rms_norm
            if rotations is None:
                qkv = functions.norm_heads(qkv, q.gamma, k.gamma, q.scale)
            else:
                qkv = functions.norm_and_rotate_heads(qkv, q.gamma, k.gamma, q.scale, rotations)
        elif rotations is not None:
            qkv = functions.rotate_heads(qkv, rotations)
        # TRELLIS.2's functions, wherever they were replaced.
        module: Any = sys.modules[type(attention).__module__]
        if hasattr(x, "feats"):
            out = module.sparse_scaled_dot_product_attention(x.replace(qkv)).feats
        else:
            out = module.scaled_dot_product_attention(*qkv[None].unbind(2))[0]
        return attention.to_out(out.flatten(1))


class _FusedNorm:
    """`forward` of the norm of queries or keys in cross-attention."""

    def __init__(self, blocks: FusedBlocks, norm: Any) -> None:
        self._blocks = blocks
        self._norm = norm

    def __call__(self, x: Any) -> Any:
        """`x`, […, H, D] or a sparse tensor of heads, normed."""
        values = x.feats if hasattr(x, "feats") else x
        rows = values.reshape(-1, *values.shape[-2:])
        normed = self._blocks.functions.rms_norm(rows, self._norm.gamma, self._norm.scale)
        normed = normed.view(values.shape)
        return x.replace(normed) if hasattr(x, "feats") else normed


def _rows(x: Any) -> Tensor:
    """[T, C] of a sparse tensor, or of [1, T, C]."""
    return x.feats if hasattr(x, "feats") else x[0]


def _with_rows(x: Any, rows: Tensor) -> Any:
    """A tensor like `x` with other features."""
    return x.replace(rows) if hasattr(x, "feats") else rows[None]


def _rotations(attention: Any, x: Any, phases: Tensor | None) -> Tensor:
    """Cosine and sine for each token and pair of channels, float32 [T, D / 2, 2].

    Those of a sparse tensor are kept with its voxels. Channels that no axis uses are not
    rotated.
    """
    if phases is not None:
        return torch.view_as_real(phases)
    rotations = x.get_spatial_cache(_ROTATIONS)
    if rotations is None:
        rope, places = attention.rope, x.coords[:, 1:]
        angles = rope._get_phases(places.reshape(-1)).reshape(len(places), -1)  # noqa: SLF001
        unused = rope.head_dim // 2 - angles.shape[1]
        rotations = torch.view_as_real(torch.nn.functional.pad(angles, (0, unused), value=1.0))
        x.register_spatial_cache(_ROTATIONS, rotations)
    return rotations


def _reason(error: Exception) -> str:
    """Text of an error; of its cause, if it is PyTorch's error for a failed backend."""
    cause = getattr(error, "inner_exception", None)
    return first_line(cause if isinstance(cause, Exception) else error)


def _require_close(result: Tensor, expected: Tensor, what: str) -> None:
    """Raise unless two results are equal to rounding.

    Raises:
        RuntimeError: they are not.
    """
    found = fusion.difference(result, expected)
    if found > fusion.TOLERANCES.get(expected.dtype, 0.0):
        raise RuntimeError(f"{what} differs by {found:.1e} of the largest value when compiled")


def _why_unfit(block: Any) -> str | None:
    """Why a block cannot be fused; None if it can."""
    try:
        first, second, third = block.norm1, block.norm2, block.norm3
        own, cross = block.self_attn, block.cross_attn
        fits = (
            not block.use_checkpoint
            and first.weight is None
            and second.weight is not None
            and second.bias is not None
            and third.weight is None
            and own.attn_mode == "full"
            and (not own.qk_rms_norm or own.q_rms_norm.scale == own.k_rms_norm.scale)
            and isinstance(cross.qk_rms_norm, bool)
            and own.to_qkv.out_features == 3 * own.channels
            and hasattr(block, "modulation" if block.share_mod else "adaLN_modulation")
            and callable(block.mlp)
            and own.to_out.out_features == own.channels
        )
    except AttributeError as error:
        return f"{type(block).__name__} is not the block it was written for: {first_line(error)}"
    return None if fits else f"{type(block).__name__} is not the block it was written for"


def _kind(block: Any) -> tuple[Any, ...]:
    """What decides which functions a block calls, and with which shapes and dtypes."""
    own, cross = block.self_attn, block.cross_attn
    return (
        own.channels,
        own.num_heads,
        own.to_qkv.weight.dtype,
        own.qk_rms_norm,
        own.use_rope,
        cross.qk_rms_norm,
    )


def _examples(block: Any, device: str) -> list[tuple[str, tuple[Any, ...]]]:
    """Functions that a block calls, with arguments like those of its calls.

    Their values are random. What compiled code depends on is as in the calls: shapes but for the
    number of rows, dtypes, strides, which tensors are parameters.
    """
    channels, heads, dtype, own_norm, use_rope, cross_norm = _kind(block)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(mode=False):
        weight, bias, *gammas = (
            torch.nn.Parameter(torch.randn(*shape, generator=generator).to(device), False)  # noqa: FBT003
            for shape in [(channels,)] * 2 + [(heads, channels // heads)] * 2
        )

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    x, h = random(_CHECKED_ROWS, channels), random(_CHECKED_ROWS, channels)
    shift, scale, gate, *_ = random(1, 6 * channels).chunk(6, dim=1)
    qkv = random(_CHECKED_ROWS, 3, heads, channels // heads)
    root = (channels // heads) ** 0.5
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("norm_and_modulate", (x, shift, scale, block.norm1.eps)),
        ("gate_add_and_norm", (x, h, gate, weight, bias, block.norm2.eps)),
        ("add_norm_and_modulate", (x, h, shift, scale, block.norm3.eps)),
        ("gate_and_add", (x, h, gate)),
    ]
    if cross_norm:
        k = random(_CHECKED_ROWS, 2, heads, channels // heads)[:, 0]
        calls += [("rms_norm", (value, gammas[0], root)) for value in (k.contiguous(), k)]
    if use_rope:
        angles = random(_CHECKED_ROWS, channels // heads // 2).float()
        rotations = torch.stack([angles.cos(), angles.sin()], dim=-1)
        if own_norm:
            calls.append(("norm_and_rotate_heads", (qkv, *gammas, root, rotations)))
        else:
            calls.append(("rotate_heads", (qkv, rotations)))
    elif own_norm:
        calls.append(("norm_heads", (qkv, *gammas, root)))
    return calls
