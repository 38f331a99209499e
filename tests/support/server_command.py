"""The server's command, as users call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
ENTRY: Final = ROOT / "api_server_trellis2.py"


def configured(folder: Path, **sections: dict[str, Any]) -> Path:
    file = folder / "config.json"
    model = {"engine": "preview", "background": "none"}
    export = {"glb_texture_size": 256, "glb_decimation_target": 2000}
    file.write_text(json.dumps({"model": model, "export": export, **sections}))
    return file
