"""Euler's method for a flow."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import torch


class FlowEulerSampler:
    """From t = 1 to 0 in steps that `rescale_t` changes."""

    def __init__(self, sigma_min: float) -> None:
        self.sigma_min = sigma_min

    def _velocity(self, model: Any, x_t: Any, t: float, cond: Any, **kwargs: Any) -> Any:
        like = x_t.feats if hasattr(x_t, "feats") else x_t
        time = torch.tensor([1000 * t], device=like.device, dtype=torch.float32)
        return model(x_t, time, cond, **kwargs)

    def sample_once(
        self, model: Any, x_t: Any, t: float, t_prev: float, cond: Any = None, **kwargs: Any
    ) -> Any:
        """Make one step."""
        velocity = self._velocity(model, x_t, t, cond, **kwargs)
        if hasattr(x_t, "feats"):
            x_prev = x_t.replace(x_t.feats - (t - t_prev) * velocity.feats)
        else:
            x_prev = x_t - (t - t_prev) * velocity
        return SimpleNamespace(pred_x_prev=x_prev)

    def sample(  # noqa: PLR0913, PLR0917 - TRELLIS.2's
        self,
        model: Any,
        noise: Any,
        cond: Any = None,
        steps: int = 50,
        rescale_t: float = 1.0,
        verbose: bool = True,  # noqa: FBT001, FBT002
        tqdm_desc: str = "Sampling",
        **kwargs: Any,
    ) -> Any:
        """Make all steps."""
        del verbose, tqdm_desc
        t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        times = (rescale_t * t / (1 + (rescale_t - 1) * t)).tolist()
        for t, t_prev in itertools.pairwise(times):
            noise = self.sample_once(model, noise, t, t_prev, cond, **kwargs).pred_x_prev
        return SimpleNamespace(samples=noise)


class FlowEulerGuidanceIntervalSampler(FlowEulerSampler):
    """Adds guidance within an interval of t."""

    def _velocity(self, model: Any, x_t: Any, t: float, cond: Any, **kwargs: Any) -> Any:
        neg_cond = kwargs.pop("neg_cond")
        strength = kwargs.pop("guidance_strength")
        low, high = kwargs.pop("guidance_interval")
        kwargs.pop("guidance_rescale", None)
        with_cond = super()._velocity(model, x_t, t, cond, **kwargs)
        if strength == 1 or not low <= t <= high:
            return with_cond
        without = super()._velocity(model, x_t, t, neg_cond, **kwargs)
        if hasattr(x_t, "feats"):
            return with_cond.replace(strength * with_cond.feats + (1 - strength) * without.feats)
        return strength * with_cond + (1 - strength) * without

    def sample(  # noqa: PLR0913, PLR0917 - TRELLIS.2's
        self,
        model: Any,
        noise: Any,
        cond: Any,
        neg_cond: Any,
        steps: int = 50,
        rescale_t: float = 1.0,
        guidance_strength: float = 3.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        verbose: bool = True,  # noqa: FBT001, FBT002
        **kwargs: Any,
    ) -> Any:
        """Make all steps."""
        return super().sample(
            model,
            noise,
            cond,
            steps,
            rescale_t,
            verbose,
            neg_cond=neg_cond,
            guidance_strength=guidance_strength,
            guidance_interval=guidance_interval,
            **kwargs,
        )
