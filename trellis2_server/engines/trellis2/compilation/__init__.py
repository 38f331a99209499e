"""Faster evaluations of the flow models: the setting `model.compile`.

    choice        what the setting asks for, and what is really used
    graphs        CUDA graphs of whole evaluations; the same bits
    cuda_graphs   the same on a CUDA device
    externals     memory that a graph must keep alive
    blocks        blocks whose element-wise parts are compiled; equal to rounding
    fusion        those parts

Importing this package does not import torch.
"""

from trellis2_server.engines.trellis2.compilation.choice import Compilation, compile_models

__all__ = ["Compilation", "compile_models"]
