"""TRELLIS.2 behind the `Engine` protocol.

    before loading
        environment         checkout, packages, device: what is missing
        inspection          what `--check` prints
        checkpoint          the weights' files: found or downloaded
        hub                 cache and downloads of the Hugging Face Hub
        safetensors_header  whether a file is complete and has a model's tensors
    TRELLIS.2 adapted
        upstream            the package imported, parts of it replaced
        encoder             the image encoder, for any device and transformers 4 or 5
        samplers            samplers that report their steps, and their arguments
        loading             checked files → models and pipelines
        weights             models built without memory, then given their tensors
        loaded_model        TRELLIS.2's objects after loading
        upstream_glb        TRELLIS.2's own exporter
    stages
        engine              `Trellis2Engine`
        stages              the calls of TRELLIS.2's pipeline for one job
        views               several pictures as conditions of the samplers
        pipeline_types      models and resolutions of each pipeline type
        state               what is saved between shape and texture
        arrays              tensors → NumPy
        progress            steps reported by hooks
        compilation         CUDA graphs and compiled blocks
    device
        stage_runner        one stage at a time; restores everything after an error
        oom_policy          what is changed after out of memory
        placement           which model is on which device; low_vram
        residency           with low_vram: which weights are on the device, and in which order
        weight_mirror       one model's weights on the CPU and on the device
        weight_copies       pinned memory, copies to the device, streams
        device_memory       how much is used; freeing it
        working_memory      how much a job needs besides weights; whether all of it fits
        allocator           how PyTorch reserves memory
        device_errors       errors of PyTorch → errors of the server

Importing this package imports none of torch, transformers or trellis2.
"""

from trellis2_server.engines.trellis2.engine import Trellis2Engine
from trellis2_server.engines.trellis2.environment import reason_unavailable
from trellis2_server.engines.trellis2.inspection import Finding, inspect_trellis2

__all__ = ["Finding", "Trellis2Engine", "inspect_trellis2", "reason_unavailable"]
