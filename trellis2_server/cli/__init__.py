"""The command line: serve, check the configuration, fetch models, or make those of a picture."""

from trellis2_server.cli.command import main

__all__ = ["main"]
