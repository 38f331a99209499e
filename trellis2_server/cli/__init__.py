"""The command line: serve, check the configuration, or turn one picture into two GLBs."""

from trellis2_server.cli.command import main

__all__ = ["main"]
