"""The inner loops of the exporter, compiled on first use.

A kernel that calls another one stands in its file: numba's cache on disk looks at the date of
one file only.
"""
