from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.trellis2_engine import options, settings
from trellis2_server.engines.trellis2.samplers import (
    build_sampler,
    reporting,
    sampler_arguments,
    supported_parameters,
)
from trellis2_server.engines.trellis2.upstream import import_upstream
from trellis2_server.errors import EngineError, InputError


def test_a_parameter_that_the_sampler_lacks_is_an_error(torch: Any) -> None:
    del torch
    samplers = import_upstream(settings("x")).samplers
    plain = reporting(samplers.FlowEulerSampler)(sigma_min=1e-5)
    assert supported_parameters(plain) == {"steps", "rescale_t"}
    requested = options(tex_guidance_interval=[0.2, 0.8]).tex
    with pytest.raises(InputError, match="tex_guidance_interval"):
        sampler_arguments(plain, requested, "tex")
    full = reporting(samplers.FlowEulerGuidanceIntervalSampler)(sigma_min=1e-5)
    assert sampler_arguments(full, requested, "tex") == {
        "steps": 2,
        "guidance_strength": 1.0,
        "guidance_interval": (0.2, 0.8),
    }


class Sampler:
    """Adds the number of each step."""

    def sample_once(self, value: int, step: int) -> int:
        return value + step

    def sample(self, steps: int, *, verbose: bool = True) -> int:
        assert not verbose
        value = 0
        for step in range(steps):
            value = self.sample_once(value, step)
        return value


def test_a_sampler_reports_each_step_and_its_samples_stay_the_same() -> None:
    made = reporting(Sampler)()
    assert made.sample(4) == 6
    seen: list[int] = []
    made.on_step = lambda: seen.append(1)
    assert made.sample(4) == 6
    assert len(seen) == 4
    assert type(made).__name__ == "Sampler"


def test_an_unknown_sampler_is_an_error(torch: Any) -> None:
    del torch
    upstream: Any = SimpleNamespace(samplers=SimpleNamespace(Sampler=Sampler), patches=("a",))
    assert build_sampler(upstream, {"name": "Sampler"}).sample(3) == 3
    with pytest.raises(EngineError, match="'Heun'"):
        build_sampler(upstream, {"name": "Heun"})
