"""Runs the MCP server as `python -m trellis2_server.mcp`."""

from __future__ import annotations

import sys

from trellis2_server.mcp.command import main

if __name__ == "__main__":
    sys.exit(main())
