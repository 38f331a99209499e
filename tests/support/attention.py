"""Attention by its definition, for tests."""

from __future__ import annotations

import itertools
from typing import Any

import torch

Tensor = Any


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in float64, [Tq, H, D]."""
    q, k, v = (x.double().transpose(0, 1) for x in (q, k, v))
    weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)
    return (weights @ v).transpose(0, 1)


def starts(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
