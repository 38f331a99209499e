"""The Khronos glTF validator, run with Node.js.

The package is searched in `node_modules` of the folder `GLTF_VALIDATOR_DIR`, or of the
repository's root. Install it with `npm install`.
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
  validator.validateBytes(new Uint8Array(Buffer.concat(parts)), {
    maxIssues: 100,
    externalResourceFunction: uri => new Promise(found => found(new Uint8Array(
      require("fs").readFileSync(require("path").join(process.env.FOLDER, uri))))),
  }).then(
    report => console.log(JSON.stringify(report.issues.messages))));
"""


def messages(content: bytes, folder: Path | None = None) -> list[dict[str, object]]:
    """Return all messages of the validator about a GLB or glTF, including hints.

    Files that a glTF names are read from the folder.

    Each message has a `code`, a `severity` from 0 (error) to 3 (hint), and usually a `pointer`.
    Skips the test if Node.js or the package is missing.
    """
    node = shutil.which("node")
    root = Path(os.environ.get("GLTF_VALIDATOR_DIR", str(Path(__file__).resolve().parents[2])))
    if node is None:
        pytest.skip("Node.js is not installed: the Khronos validator cannot run")
    if not (root / "node_modules" / "gltf-validator").is_dir():
        pytest.skip("gltf-validator is not installed: run `npm install gltf-validator`")
    done = subprocess.run(
        [node, "-e", _SCRIPT],
        input=content,
        capture_output=True,
        check=True,
        cwd=root,
        env={**os.environ, "FOLDER": str(folder)},
    )
    return json.loads(done.stdout)
