"""`Session`: what the parts of one process share: device, clock, rows, the full-size engine.

Does not know: which parts there are, files.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.gpu.full_model import FullModel
    from tests.gpu.meter import Meter
    from trellis2_server.settings import ModelSettings

_LONGEST_ERROR: Final = 300


def describe(error: BaseException) -> str:
    """Class and text of an error, in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:_LONGEST_ERROR]


class Session:
    """State of one process.

    Args:
        options: `device`, `size`, `settings` of the engine, changed ones only, and `files`, a
            folder for files that are made.
        emit: sends a message: its event and values.

    Attributes:
        device: PyTorch's name of the device.
        size: "full" or "tiny".
        is_tiny: whether the models are tiny.
        is_cuda: whether the device is NVIDIA's or AMD's.
    """

    def __init__(self, options: dict[str, Any], emit: Callable[..., None]) -> None:
        self._emit = emit
        self._more_settings = dict(options.get("settings", {}))
        self._files = Path(options["files"]) if options.get("files") else None
        self._deadline, self._slowness = time.monotonic(), 1.0
        self._full: FullModel | None = None
        self.device = str(options["device"])
        self.size = str(options["size"])
        self.is_tiny = self.size == "tiny"
        self.is_cuda = self.device.startswith("cuda")

    # ---- time --------------------------------------------------------------------------

    def begin(self, deadline: float, slowness: float) -> None:
        """Begin a part that will be cut off at that time of `time.monotonic`."""
        self._deadline, self._slowness = deadline, slowness

    @property
    def left_s(self) -> float:
        """Seconds until the part is cut off."""
        return self._deadline - time.monotonic()

    def fits(self, modelled_s: float) -> bool:
        """Whether so many seconds on the modelled H100 are left. With tiny models: any time."""
        return self.left_s > (2.0 if self.is_tiny else modelled_s * self._slowness)

    def note_speed(self, slowness: float) -> None:
        """Tell how much slower this device is than the modelled H100."""
        self._slowness = max(slowness, 0.25)
        self._emit("speed", slowness=slowness)

    # ---- rows --------------------------------------------------------------------------

    def row(self, /, table: str, **values: Any) -> None:
        """Add a row to a table of the part."""
        self._emit("row", row={"table": table, **values})

    def keep(self, name: str, content: bytes) -> None:
        """Keep a file that was made, if files are kept."""
        if self._files is not None:
            self._files.mkdir(parents=True, exist_ok=True)
            (self._files / name).write_bytes(content)

    def about(self, **values: Any) -> None:
        """Add to what is known of the machine."""
        self._emit("about", about=values)

    def attempt(
        self,
        table: str,
        labels: dict[str, Any],
        modelled_s: float,
        work: Callable[[], dict[str, Any]],
    ) -> dict[str, Any] | None:
        """Measure a row, unless there is no time for it; an error becomes the row.

        Args:
            table: of the row.
            labels: first values of the row.
            modelled_s: seconds on the modelled H100.
            work: returns the other values.

        Returns:
            What `work` returned; None after an error or without time.
        """
        if not self.fits(modelled_s):
            self.row(table, **labels, skipped=f"no time: {self.left_s:.0f} s left")
            return None
        try:
            values = work()
        except Exception as error:  # noqa: BLE001 - the other rows follow
            failed = describe(error)
        else:
            self.row(table, **labels, **values)
            return values
        self.row(table, **labels, error=failed)
        self.release()  # here the error no longer holds tensors
        return None

    # ---- device ------------------------------------------------------------------------

    @cached_property
    def torch(self) -> Any:
        """PyTorch, with this device as the current one."""
        torch: Any = importlib.import_module("torch")
        if self.is_cuda:
            torch.cuda.set_device(torch.device(self.device).index or 0)
        return torch

    @cached_property
    def meter(self) -> Meter:
        """Clock and memory of the device."""
        from tests.gpu.meter import Meter

        return Meter(self.torch, self.device)

    def release(self) -> None:
        """Return what nothing uses to the device."""
        gc.collect()
        if self.is_cuda and "torch" in sys.modules:
            self.torch.cuda.empty_cache()

    def clean_up(self) -> bool:
        """Release memory after a part; return whether the device still works."""
        try:
            self.release()
            if self.is_cuda and "torch" in sys.modules:
                self.torch.cuda.synchronize()
        except Exception:  # noqa: BLE001 - an error that stays until the process ends
            return False
        return True

    # ---- engine ------------------------------------------------------------------------

    def settings(self, **more: Any) -> ModelSettings:
        """Settings of an engine on this device."""
        from trellis2_server.engines.trellis2 import environment
        from trellis2_server.settings import ModelSettings

        values = {
            "engine": "trellis2",
            "device": self.device,
            "trellis2_path": os.environ.get(environment.HOME_VARIABLE),
            "offline": True,
            "compile": "none",  # results are compared with those of TRELLIS.2's own calls
        }
        return ModelSettings.model_validate({**values, **self._more_settings, **more})

    @property
    def is_compiled(self) -> bool:
        """Whether the flow models are compiled unless a part asks for something else."""
        return self.settings().compile != "none"

    def full(self) -> FullModel:
        """The engine with random weights at full size, or tiny; built once, with a row."""
        if self._full is None:
            from tests.gpu.full_model import build_with_row

            self._full = build_with_row(self, low_vram=False)
        return self._full

    def drop_full(self) -> None:
        """Free the full-size engine."""
        self._full = None
        self.release()

    def compile_exporter(self) -> None:
        """Compile the exporter's loops, in a row of its own: no export counts it."""
        from trellis2_server import export

        began = time.perf_counter()
        export.warm_up()
        self.row(
            "exporter's loops, before the first export",
            what="compile, or load from numba's cache",
            seconds=time.perf_counter() - began,
        )
