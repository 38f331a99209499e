"""Engines that make shapes and materials, and stand-ins for CUDA extensions."""
