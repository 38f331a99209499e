from __future__ import annotations

from trellis2_server.engines.trellis2.pipeline_types import (
    MODEL_NAMES,
    PIPELINE_TYPES,
    SHARED_MODELS,
)


def test_every_lower_type_has_a_lower_resolution_or_no_cascade() -> None:
    for kind in PIPELINE_TYPES.values():
        if kind.lower is not None:
            lower = PIPELINE_TYPES[kind.lower]
            assert lower.resolution < kind.resolution
            assert len(lower.shape_models) <= len(kind.shape_models)


def test_every_model_is_used_by_a_type_and_named_once() -> None:
    used = set(SHARED_MODELS)
    for kind in PIPELINE_TYPES.values():
        used |= {*kind.shape_models, kind.texture_model}
    assert used == set(MODEL_NAMES)
    assert len(MODEL_NAMES) == len(used) == 8


def test_only_types_above_1024_have_a_token_limit() -> None:
    limited = [name for name, kind in PIPELINE_TYPES.items() if kind.has_token_limit]
    assert limited == ["1536_cascade"]
