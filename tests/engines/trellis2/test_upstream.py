from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.support.trellis2_engine import HOME, ROOT, STANDIN, needs_checkout

if TYPE_CHECKING:
    from pathlib import Path

    from trellis2_server.engines.trellis2 import Trellis2Engine

SIGNATURES = """
import inspect, json, sys
sys.path[:0] = [{root!r}, {home!r}]
from trellis2_server.settings import ModelSettings
from trellis2_server.engines.trellis2 import upstream
up = upstream.import_upstream(ModelSettings(device="cpu", trellis2_path={home!r}))
def names(f):
    return [p.name for p in inspect.signature(f).parameters.values() if p.kind is not p.VAR_KEYWORD]
P = up.pipeline
found = {{m: names(getattr(P, m)) for m in (
    "__init__", "to", "get_cond", "sample_sparse_structure", "sample_shape_slat",
    "sample_shape_slat_cascade", "decode_shape_slat", "sample_tex_slat", "decode_tex_slat")}}
for s in ("FlowEulerSampler", "FlowEulerGuidanceIntervalSampler"):
    for m in ("sample", "sample_once"):
        found[s + "." + m] = names(getattr(getattr(up.samplers, s), m))
found["upsample"] = names(up.models.SparseUnetVaeDecoder.upsample)
found["decode"] = names(up.models.SparseUnetVaeDecoder.forward)
T = upstream.import_texturing()
for m in ("__init__", "to", "get_cond", "encode_shape_slat", "sample_tex_slat", "decode_tex_slat"):
    found["T." + m] = names(getattr(T, m))
found["encode"] = names(up.models.FlexiDualGridVaeEncoder.forward)
found["VarLenTensor"] = names(up.sparse.VarLenTensor.__init__)
print(json.dumps(found))
"""


@needs_checkout
def test_the_stand_in_has_the_signatures_of_the_real_package() -> None:
    def signatures(home: Path) -> Any:
        code = SIGNATURES.format(root=str(ROOT), home=str(home))
        environ = {k: v for k, v in os.environ.items() if k != "TRELLIS2_HOME"}
        run = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environ
        )
        return json.loads(run.stdout.splitlines()[-1])

    assert signatures(STANDIN) == signatures(HOME)


def test_placeholders_are_removed_after_the_import(loaded: Trellis2Engine) -> None:
    del loaded
    for package in ("nvdiffrast", "nvdiffrast.torch", "trimesh"):
        module = sys.modules.get(package)
        assert module is None or module.__doc__ != "Not installed."
