"""A server for TRELLIS.2: one picture in, two GLBs out."""

__version__ = "0.1.0"
