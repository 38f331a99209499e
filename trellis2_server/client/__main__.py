"""Runs the command line of the client as `python -m trellis2_server.client`."""

from __future__ import annotations

import sys

from trellis2_server.client.cli import main

if __name__ == "__main__":
    sys.exit(main(program="python -m trellis2_server.client"))
