"""Attention to the picture: what depends on the picture only is computed once a stage.

    condition   keys and values of each block are kept from the first step. The same operation
                on the same numbers: results stay the same bit for bit, as long as the device
                repeats its own results
    negative    where the features are all zero, as TRELLIS.2 has them for the negative pass,
                every key of a block is the same and so is every value: attention returns that
                value for every token. Equal to rounding: with the tests' model in float32 the
                latents differ by 2e-7 of the largest number, vertices and colours by 1.3e-6,
                of which the tests allow 1e-5; in bfloat16 they do not differ

Kept keys and values take 3 · L · C numbers a block: the values stay in the tensor that they are
computed in, so that attention gets the same strides. That is 1.1 GB for the 4101 features of a
picture at 1024 in bfloat16. A budget limits them; blocks beyond it compute theirs in each step.

Does not know: samplers, when a stage begins.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.trellis2.patches.patch import Patch
from trellis2_server.engines.trellis2.patches.scope import Condition, active

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.engines.trellis2.patches.scope import SamplingScope

    Tensor = Any

CONDITION: Final = "condition"
NEGATIVE: Final = "negative"
_SPARSE: Final = "trellis2.modules.sparse.attention.modules"
_DENSE: Final = "trellis2.modules.attention.modules"
_FLOWS: Final = (
    "trellis2.models.structured_latent_flow:SLatFlowModel",
    "trellis2.models.sparse_structure_flow:SparseStructureFlowModel",
)
_BLOCKS: Final = (
    "trellis2.modules.sparse.transformer.modulated:ModulatedSparseTransformerCrossBlock",
    "trellis2.modules.transformer.modulated:ModulatedTransformerCrossBlock",
)
#: Share of a device's memory for keys and values; and their limit where it is not known, bytes.
_SHARE: Final = 1 / 64
_LIMIT: Final = 2**30


def share(scope: SamplingScope, model: Any, features: dict[str, Any]) -> dict[str, Any]:
    """Return the features of a call of a sampler as the model's blocks get them.

    A model casts features to its own dtype in each evaluation; features that have it are passed
    on as they are, so that its blocks can recognise them.

    Args:
        scope: of the call.
        model: that is sampled.
        features: arguments of the sampler, "cond" and "neg_cond".
    """
    names = scope.names & {CONDITION, NEGATIVE}
    torch: Any = importlib.import_module("torch")
    if not names or torch.is_autocast_enabled() or not _is_flow(model):
        return features
    shared = dict(features)
    for name, value in features.items():
        if isinstance(value, torch.Tensor):
            shared[name] = value.type(model.dtype)
            is_zero = NEGATIVE in names and name == "neg_cond" and not bool(value.any())
            scope.conditions.append(Condition(shared[name], is_zero))
    scope.budget = _budget(torch, model.device)
    return shared


def _is_flow(model: Any) -> bool:
    for path in _FLOWS:
        module, _, name = path.partition(":")
        if isinstance(model, getattr(importlib.import_module(module), name)):
            return True
    return False


def _budget(torch: Any, device: Any) -> int:
    if device.type != "cuda":
        return _LIMIT
    return int(torch.cuda.get_device_properties(device).total_memory * _SHARE)


def _find(name: str, attention: Any, context: Any) -> tuple[SamplingScope, Condition] | None:
    """The scope and the condition of a call of an attention module, if the patch covers it."""
    scope = active(name)
    if scope is None or attention._type != "cross":  # noqa: SLF001 - has no public name
        return None
    condition = scope.condition(context)
    return None if condition is None else (scope, condition)


def _keep(
    found: tuple[SamplingScope, Condition],
    attention: Any,
    make: Callable[[], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    """Keys and values of a block; made in each step once the budget is used up."""
    scope, condition = found
    kept = condition.kept.get(attention)
    if kept is None:
        kept = make()
        storages = [tensor.untyped_storage() for tensor in kept]
        size = sum(storage.nbytes() for storage in storages)
        if size <= scope.budget:
            scope.budget -= size
            condition.kept[attention] = kept
    return kept


def _replace_sparse(original: Any) -> Callable[..., Any]:
    module: Any = importlib.import_module(_SPARSE)

    def forward(self: Any, x: Any, context: Any = None) -> Any:
        found = _find(CONDITION, self, context)
        if found is None:
            return original(self, x, context)

        def make() -> tuple[Tensor, ...]:
            packed = self._fused_pre(self._linear(self.to_kv, context), num_fused=2)
            if not self.qk_rms_norm:
                return (packed,)
            key, value = packed.unbind(dim=-3)
            return self.k_rms_norm(key), value

        query = self._reshape_chs(self._linear(self.to_q, x), (self.num_heads, -1))
        if self.qk_rms_norm:
            query = self.q_rms_norm(query)
        out = module.sparse_scaled_dot_product_attention(query, *_keep(found, self, make))
        return self._linear(self.to_out, self._reshape_chs(out, (-1,)))

    return forward


def _replace_dense(original: Any) -> Callable[..., Any]:
    module: Any = importlib.import_module(_DENSE)

    def forward(self: Any, x: Tensor, context: Any = None, phases: Any = None) -> Tensor:
        found = _find(CONDITION, self, context)
        if found is None:
            return original(self, x, context, phases)

        def make() -> tuple[Tensor, ...]:
            packed = self.to_kv(context).unflatten(-1, (2, self.num_heads, -1))
            if not self.qk_rms_norm:
                return (packed,)
            key, value = packed.unbind(dim=2)
            return self.k_rms_norm(key), value

        query = self.to_q(x).unflatten(-1, (self.num_heads, -1))
        if self.qk_rms_norm:
            query = self.q_rms_norm(query)
        out = module.scaled_dot_product_attention(query, *_keep(found, self, make))
        return self.to_out(out.flatten(2))

    return forward


def _of_zeros(attention: Any, context: Any) -> Tensor | None:
    """What attention returns for every token, [1, 1, C]; None if not all features are zero."""
    found = _find(NEGATIVE, attention, context)
    if found is None or not found[1].is_zero:
        return None
    kept = found[1].kept.get(attention)
    if kept is None:
        _, value = attention.to_kv(context[:1, :1]).chunk(2, dim=-1)
        kept = found[1].kept[attention] = (attention.to_out(value),)
    return kept[0]


def _replace_sparse_of_zeros(original: Any) -> Callable[..., Any]:
    def forward(self: Any, x: Any, context: Any = None) -> Any:
        row = _of_zeros(self, context)
        if row is None:
            return original(self, x, context)
        return x.replace(row[0].expand(x.feats.shape[0], -1))

    return forward


def _replace_dense_of_zeros(original: Any) -> Callable[..., Any]:
    def forward(self: Any, x: Tensor, context: Any = None, phases: Any = None) -> Tensor:
        row = _of_zeros(self, context)
        return original(self, x, context, phases) if row is None else row.expand(x.shape)

    return forward


_SPARSE_FORWARD: Final = f"{_SPARSE}:SparseMultiHeadAttention.forward"
_DENSE_FORWARD: Final = f"{_DENSE}:MultiHeadAttention.forward"
_SOURCES: Final = {
    _SPARSE_FORWARD: "f8c49adbcf7d919c",
    _DENSE_FORWARD: "c7dda3e82d5de5c1",
    f"{_SPARSE}:SparseMultiHeadAttention._linear": "4f65fee18128d264",
    f"{_SPARSE}:SparseMultiHeadAttention._reshape_chs": "267ec51e057a1a14",
    f"{_SPARSE}:SparseMultiHeadAttention._fused_pre": "a580df871e34a9fa",
    # They cast the features and pass them to each block,
    f"{_FLOWS[0]}.forward": "e9db45a4f403f4f8",
    f"{_FLOWS[1]}.forward": "d47bf89440777059",
    "trellis2.modules.utils:manual_cast": "cb5fd608f4be0cda",
    # and the blocks add what their attention returns.
    f"{_BLOCKS[0]}._forward": "58a99b40a6e76cbc",
    f"{_BLOCKS[1]}._forward": "65a097e28a6a8ab7",
}

PATCHES: Final = (
    Patch(
        CONDITION,
        is_exact=True,
        sources=_SOURCES,
        replacements={_SPARSE_FORWARD: _replace_sparse, _DENSE_FORWARD: _replace_dense},
    ),
    Patch(
        NEGATIVE,
        is_exact=False,
        sources=_SOURCES,
        replacements={
            _SPARSE_FORWARD: _replace_sparse_of_zeros,
            _DENSE_FORWARD: _replace_dense_of_zeros,
        },
    ),
)
