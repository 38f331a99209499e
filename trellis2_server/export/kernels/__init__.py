"""The inner loops of the exporter, compiled on their first call.

A kernel and the kernels that it calls must be in the same file: numba's cache on disk checks that
file only.
"""
