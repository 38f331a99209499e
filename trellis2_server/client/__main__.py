"""Runs the client's command line: `python -m trellis2_server.client`."""

from __future__ import annotations

import sys

from trellis2_server.client.cli import main

if __name__ == "__main__":
    sys.exit(main())
