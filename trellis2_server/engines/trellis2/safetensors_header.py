"""Headers of safetensors files: which tensors a file has, and whether it is complete.

Nothing but the header is read. It names each tensor's shape and position, which is enough to
notice a truncated file and a missing tensor before a model is loaded.

Format: https://huggingface.co/docs/safetensors, "Format".

Does not know: PyTorch, models, where files come from.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Larger than the header of any checkpoint.
_MAX_HEADER_BYTES: Final = 100_000_000


def read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the name and shape of each tensor, and check the length of the file.

    Raises:
        EngineError: the file is missing, damaged or truncated.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            # An impossible length gives an empty header, which is not JSON.
            text = file.read(length) if length <= min(size, _MAX_HEADER_BYTES) else b""
        header: dict[str, Any] = json.loads(text)
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        shapes = {key: tuple(entry["shape"]) for key, entry in header.items()}
    except OSError as error:
        raise EngineError(
            f"the checkpoint's {path.name} cannot be read: {error.strerror}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"the checkpoint's {path.name} is not a safetensors file") from error
    if size != 8 + length + end:
        raise EngineError(
            f"the checkpoint's {path.name} is truncated: {size} bytes of {8 + length + end}; "
            "delete it and download it again"
        )
    return shapes


def compare(
    name: str,
    tensors: Mapping[str, tuple[int, ...]],
    parameters: Mapping[str, tuple[int, ...]],
) -> None:
    """Check that a file has every parameter of a model, with the same shape.

    Args:
        name: of the model.
        tensors: name → shape, of the file.
        parameters: name → shape, of the model.

    Raises:
        EngineError: names the first parameter that is missing or has another shape.
    """
    missing = sorted(parameters.keys() - tensors.keys())
    other = sorted(k for k in parameters.keys() & tensors.keys() if tensors[k] != parameters[k])
    for what, keys in (("lacks", missing), ("has another shape of", other)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise EngineError(
                f"the checkpoint's {name} {what} {keys[0]}{more}: it belongs to another "
                "version of TRELLIS.2, or was reduced"
            )
