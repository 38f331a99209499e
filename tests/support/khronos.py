"""The Khronos glTF validator, run through node.

It is looked for in `node_modules` under `GLTF_VALIDATOR_DIR`, or under the repository's
root: `npm install gltf-validator` there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

_SCRIPT = """
const validator = require('gltf-validator');
const parts = [];
process.stdin.on('data', part => parts.push(part));
process.stdin.on('end', () =>
  validator.validateBytes(new Uint8Array(Buffer.concat(parts)), {maxIssues: 100}).then(
    report => console.log(JSON.stringify(report.issues.messages))));
"""


def messages(content: bytes) -> list[dict[str, object]]:
    """Everything the validator says about a GLB, hints included: [] is perfect.

    Each message has a `code`, a `severity` from 0, an error, to 3, a hint, and mostly a
    `pointer`. Skips the test where node or the package is missing.
    """
    node = shutil.which("node")
    root = Path(os.environ.get("GLTF_VALIDATOR_DIR", str(Path(__file__).resolve().parents[2])))
    if node is None:
        pytest.skip("node is not installed: the Khronos validator cannot run")
    if not (root / "node_modules" / "gltf-validator").is_dir():
        pytest.skip("gltf-validator is not installed: run `npm install gltf-validator`")
    done = subprocess.run(
        [node, "-e", _SCRIPT], input=content, capture_output=True, check=True, cwd=root
    )
    return json.loads(done.stdout)
