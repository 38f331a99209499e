from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.trellis2_engine import ROOT, edit_weights, settings
from trellis2_server.engines.trellis2 import (
    Finding,
    Trellis2Engine,
    inspect_trellis2,
    inspection,
)
from trellis2_server.engines.trellis2.inspection import has_kernels
from trellis2_server.settings import ModelSettings

if TYPE_CHECKING:
    from pathlib import Path


def levels(found: list[Finding]) -> dict[str, set[str]]:
    return {
        finding.what: {other.level for other in found if other.what == finding.what}
        for finding in found
    }


def test_an_inspection_uses_the_network_only_if_it_may(
    loaded: Trellis2Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[object] = []

    def refuse(*address: object, **_: object) -> None:
        connections.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    elsewhere = settings("some/model").model_copy(update={"offline": False})
    loaded.describe()
    inspect_trellis2(elsewhere)
    assert not connections
    inspect_trellis2(elsewhere, ask_network=True)
    assert connections


def test_an_inspection_of_a_complete_checkpoint_finds_no_error(checkpoint: Path) -> None:
    found = inspect_trellis2(settings(checkpoint))
    assert levels(found) == {
        "packages": {"ok"},
        "trellis2": {"ok"},
        "device": {"warning"},
        "extensions": {"warning"},
        "checkpoint": {"ok"},
    }
    assert "8 models" in found[-1].text
    assert "every tensor is present" in found[-1].text


def test_low_vram_is_advised_only_where_it_is_off() -> None:
    small, large = 16.0, 24.0
    model = ModelSettings(device="cuda")
    for low_vram, advice in ((None, ""), (True, ""), (False, "set model.low_vram to null, and ")):
        chosen = model.model_copy(update={"low_vram": low_vram})
        (finding,) = inspection._memory(chosen, small, "1024_cascade")
        assert finding.text.endswith(f"memory: {advice}set generation.pipeline_type to 512")
        assert not list(inspection._memory(chosen, large, "1024_cascade"))


def test_an_inspection_continues_after_the_first_error(copy: Path, tmp_path: Path) -> None:
    edit_weights(
        copy / "ckpts" / "tex_slat_decoder.safetensors",
        lambda tensors: tensors.pop("output_layer.bias"),
    )
    found = inspect_trellis2(settings(copy).model_copy(update={"device": "cuda:99"}))
    assert levels(found)["device"] == {"error"}
    assert found[-1] == Finding("checkpoint", "error", found[-1].text)
    assert "lacks output_layer.bias" in found[-1].text
    found = inspect_trellis2(
        settings("nobody/nothing").model_copy(update={"trellis2_path": str(tmp_path)})
    )
    assert levels(found)["trellis2"] == {"error"}
    assert "not on this machine" in found[-1].text
    online = settings("nobody/nothing", background="upstream").model_copy(update={"offline": False})
    found = inspect_trellis2(online)
    assert levels(found)["checkpoint"] == {"warning"}
    assert [finding.text for finding in found if finding.what in {"encoder", "background"}] == [
        "not checked: whether facebook/dinov3-vitl16-pretrain-lvd1689m is gated",
        "not checked: whether briaai/RMBG-2.0 is gated",
    ]


def test_a_missing_mesh_encoder_is_a_warning(copy: Path) -> None:
    (copy / "texturing_pipeline.json").unlink()
    found = inspect_trellis2(settings(copy))
    assert "it has no shape_slat_encoder: uploaded meshes cannot be textured" in [
        finding.text for finding in found
    ]


@pytest.mark.costly
def test_the_check_ends_with_a_verdict(copy: Path, tmp_path: Path) -> None:
    def check(device: str) -> tuple[int, list[str], str]:
        model = settings(copy).model_copy(update={"device": device})
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"model": model.model_dump()}))
        run = subprocess.run(
            [sys.executable, ROOT / "api_server_trellis2.py", "--config", config, "--check"],
            check=False,
            capture_output=True,
            text=True,
        )
        return run.returncode, run.stdout.splitlines(), run.stderr

    code, lines, errors = check("cpu")
    assert (code, lines[-1].split(None, 1)[1]) == (0, "TRELLIS.2 can be started")
    assert "stand-in" not in errors
    assert not any(line.startswith("[") for line in lines)
    code, lines, _ = check("cuda:99")
    assert (code, lines[-1].split(None, 1)[1]) == (1, "TRELLIS.2 will not start: 1 error(s) above")


@pytest.mark.parametrize(
    ("capability", "made_for", "fits"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 9), ["sm_80", "sm_90"], True),
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_80", "compute_90"], True),
        ((12, 0), ["sm_120a"], True),
        ((7, 5), ["sm_80"], False),
    ],
)
def test_kernels_run_on_later_minor_versions_and_ptx_on_all_later_ones(
    capability: tuple[int, int], made_for: list[str], *, fits: bool
) -> None:
    assert has_kernels(*capability, made_for) is fits
