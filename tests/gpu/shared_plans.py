"""Attention in a process of its own, as in the server; `probe_attention` starts it.

    python shared_plans.py '{"device": "cuda", "size": "full", "kernels": ["cudnn"], "left_s": 60}'

Prints each row as a line of JSON after the word ROW.

Does not know: why its environment is as it is.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from tests.gpu.parts.probe_attention import (  # noqa: E402 - after the path is set
    KERNELS,
    NEW_LENGTHS,
    SHARED_PLANS,
    measure_kernels,
    measure_new_lengths,
)
from tests.gpu.session import Session  # noqa: E402


def main() -> None:
    """Measure and print."""
    options = json.loads(sys.argv[1])

    def emit(event: str, **more: Any) -> None:
        if event == "row":
            print(f"ROW {json.dumps(more['row'])}", flush=True)

    attention_kernels: Any = importlib.import_module(
        "trellis2_server.engines.portable.attention_kernels"
    )
    attention_kernels.configure("auto")  # as the server does before its first attention
    session = Session(options, emit)
    session.begin(time.monotonic() + options["left_s"], 1.0)
    usable = measure_kernels(session, options["kernels"], f"{KERNELS}; {SHARED_PLANS}")
    measure_new_lengths(session, usable, f"{NEW_LENGTHS}; {SHARED_PLANS}")


if __name__ == "__main__":
    main()
