"""Models of TRELLIS.2 built without memory, then given the tensors of a safetensors file.

A model's own constructor would fill gigabytes that the file overwrites: it builds in float32,
converts, and is then filled. Here the parameters are on PyTorch's "meta" device, which has
shapes and dtypes only, until the file's tensors take their places. What a constructor computes
(positions, frequencies; buffers or plain attributes) is computed as usual.

Does not know: which models there are, where files come from, which model is on which device.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from trellis2_server.errors import EngineError, ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trellis2_server.engines.trellis2.checkpoint import ModelFiles
    from trellis2_server.engines.trellis2.upstream import Upstream

logger = logging.getLogger(__name__)

Tensor = Any


def construct(upstream: Upstream, files: ModelFiles) -> Any:
    """Build a model as its configuration says.

    Raises:
        EngineError: this version of TRELLIS.2 cannot build it.
    """
    name, args = files.read_config()
    try:
        return getattr(upstream.models, name)(**args)
    except ServerError:
        raise
    except (AttributeError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise EngineError(
            f"the checkpoint's {files.name} is a {name}, which this version of TRELLIS.2 cannot "
            f"build: {error}"
        ) from error


def load(upstream: Upstream, files: ModelFiles, device: str, *, mapped: bool = False) -> Any:
    """Build a model with the tensors of its file, for evaluation only.

    Parameters and buffers have the dtypes of the model's class, whatever those of the file are.

    Args:
        upstream: TRELLIS.2.
        files: checked; a buffer that the weights lack is the constructor's.
        device: PyTorch's name of the device; the file is read straight to it.
        mapped: whether tensors on the CPU may be views of the file. For a model whose tensors
            are copied elsewhere at once: otherwise the file must not change while they exist.

    Raises:
        EngineError: the model cannot be built, or the weights lack a parameter.
    """
    made = _construct_empty(upstream, files)
    _assign(made, files, device, mapped=mapped)
    left = sorted(_on_meta(made))
    if left:
        # Another version of TRELLIS.2 computes something from a parameter, or in `torch.empty`.
        logger.info("A model is built the slow way", extra={"model": files.name, "first": left[0]})
        with no_initial_values(upstream.torch):
            made = construct(upstream, files)
        lacks = {key for key, _ in made.named_parameters()} & set(left)
        if lacks:
            raise EngineError(f"the checkpoint's {files.name} lacks {min(lacks)}")
        _assign(made, files, device, mapped=mapped)
    return made.to(device).eval().requires_grad_(requires_grad=False)


def no_initial_values(torch: Any) -> Any:
    """Return a context in which new models are not initialised.

    Their weights are uninitialised memory: the checkpoint overwrites them, and random numbers
    for all of them take minutes.
    """
    skipped = {
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
        torch.nn.init.normal_,
        torch.nn.init.uniform_,
        torch.nn.init.xavier_uniform_,
        torch.nn.init.kaiming_uniform_,
        torch.nn.init.trunc_normal_,
    }

    class NoInitialValues(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in skipped:
                return args[0] if args else kwargs["tensor"]
            return func(*args, **(kwargs or {}))

    return NoInitialValues()


def _empty_parameters(torch: Any) -> Any:
    """Return a context in which `torch.empty`, as PyTorch's layers call it, has no memory.

    Everything else is made on the CPU, also where a constructor asks for the device of its own
    parameters: that is "meta" now, and would be the CPU otherwise.
    """
    meta = torch.device("meta")

    class EmptyParameters(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if func is torch.empty:
                kwargs["device"] = kwargs.get("device") or meta
            elif kwargs.get("device") == meta:
                kwargs["device"] = torch.device("cpu")
            return func(*args, **kwargs)

    return EmptyParameters()


def _construct_empty(upstream: Upstream, files: ModelFiles) -> Any:
    torch = upstream.torch
    try:
        with no_initial_values(torch), _empty_parameters(torch):
            return construct(upstream, files)
    except EngineError as error:
        # A constructor that reads its parameters' values; the ordinary way says if that is all.
        logger.info("A model is built the slow way", extra={"model": files.name, "why": str(error)})
        with no_initial_values(torch):
            return construct(upstream, files)


def _assign(made: Any, files: ModelFiles, device: str, *, mapped: bool) -> None:
    """Replace a model's tensors by those of the file, in the model's dtypes, on the device."""
    safe_open: Any = importlib.import_module("safetensors").safe_open
    wanted = {key: tensor.dtype for key, tensor in made.state_dict().items()}
    copy = device == "cpu" and not mapped
    with safe_open(str(files.weights), framework="pt") as file:
        tensors = {
            key: file.get_tensor(key).to(device=device, dtype=wanted[key], copy=copy)
            for key in file.keys()  # noqa: SIM118 - not a mapping
            if key in wanted
        }
    made.load_state_dict(tensors, strict=False, assign=True)


def _on_meta(module: Any) -> Iterator[str]:
    """Names of a model's tensors without memory, also of those that are plain attributes."""
    for prefix, part in module.named_modules():
        held = {**vars(part), **part._parameters, **part._buffers}  # noqa: SLF001 - no public name
        for name, value in held.items():
            if getattr(value, "is_meta", False):
                yield f"{prefix}.{name}" if prefix else name
