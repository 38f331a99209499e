"""The engine's own tests on the device, then the server over HTTP, with the small checkpoint.

Does not know: full-size models.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.gpu import needs
from tests.gpu.part import SERVER
from tests.gpu.parts import engine_checks

if TYPE_CHECKING:
    from tests.gpu.session import Session


def run(session: Session) -> None:
    """Check the engine, then measure the server where its packages are installed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine_checks.run(session, folder)
        missing = needs.missing((*SERVER, "numba"))
        if missing:
            session.row("server", what="HTTP", error=f"this Python lacks {', '.join(missing)}")
            return
        session.compile_exporter()
        from tests.gpu.parts import server_load

        session.attempt(
            "server",
            {"what": "three jobs at once"},
            10.0,
            lambda: server_load.measure(
                session.settings(model_path=str(folder)), 2 if session.is_tiny else 12
            ),
        )
