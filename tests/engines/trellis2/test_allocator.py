from __future__ import annotations

import os
import sys

import pytest

from trellis2_server.engines.trellis2.allocator import prefer_expandable_segments

NAMES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")


def chosen() -> dict[str, str]:
    return {name: os.environ[name] for name in NAMES if name in os.environ}


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_segments_are_expandable_on_cuda(device: str) -> None:
    prefer_expandable_segments(device)
    assert chosen() == {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


@pytest.mark.parametrize("name", NAMES)
def test_the_operators_choice_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "max_split_size_mb:512")
    prefer_expandable_segments("cuda")
    assert chosen() == {name: "max_split_size_mb:512"}


def test_other_devices_and_windows_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("cpu", "mps", "xpu"):
        prefer_expandable_segments(device)
    monkeypatch.setattr(sys, "platform", "win32")
    prefer_expandable_segments("cuda")
    assert chosen() == {}
