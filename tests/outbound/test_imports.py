"""What a server that calls no other host imports."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import trellis2_server.cli.serve
from trellis2_server.api.app import create_app
from trellis2_server.inputs.images import Cutter
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.settings import Settings

create_app(Settings(), PreviewEngine(), Cutter(background="none"))
print(*sorted(name for name in sys.modules if name.startswith("trellis2_server.outbound.")))
print(*sorted({"httpx", "httpcore", "certifi"} & set(sys.modules)))
"""


def test_a_server_imports_only_the_list_of_hosts_and_no_http_client() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=120
    )
    own, clients = done.stdout.splitlines()
    names = ("hosts", "signatures", "urls")
    assert own.split() == [f"trellis2_server.outbound.{name}" for name in names]
    assert clients == ""
