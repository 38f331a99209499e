"""Runs one stage at a time on the device, and cleans up after one that fails.

Does not know: what a stage computes, retries.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from typing import TYPE_CHECKING, Any

from trellis2_server.engines.trellis2.device_errors import (
    first_line,
    release_frames,
    translated_device_errors,
)
from trellis2_server.engines.trellis2.device_memory import DeviceMemory
from trellis2_server.errors import EngineBrokenError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from trellis2_server.engines.trellis2.placement import ModelPlacement
    from trellis2_server.engines.trellis2.progress import StageProgress


class StageRunner:
    """Runs stages on the device, which is the current device while one runs.

    Args:
        torch: PyTorch.
        clean_up: frees memory of the device that nothing uses.
        memory: of the device; None for the CPU.

    Attributes:
        broken: error after which the device cannot be used by this process; None otherwise.
    """

    def __init__(
        self, torch: Any, clean_up: Callable[[], None], memory: DeviceMemory | None = None
    ) -> None:
        self._torch = torch
        self._clean_up = clean_up
        self._memory = memory or DeviceMemory(torch, "cpu")
        # A cut-out may come from another thread than the stages.
        self._lock = threading.Lock()
        self.broken: EngineBrokenError | None = None

    def check(self) -> None:
        """Raise the error after which the device cannot be used.

        Raises:
            EngineBrokenError: there was one.
        """
        if self.broken is not None:
            raise copy.copy(self.broken)

    @contextlib.contextmanager
    def running(
        self, placement: ModelPlacement, progress: StageProgress, *, inference: bool = True
    ) -> Generator[None, None, None]:
        """Run the block as one stage; after an error restore the models' places.

        The block has random numbers of its own: PyTorch's CPU generator is as before
        afterwards. Its errors are translated as by `device_errors.translated_device_errors`.

        Args:
            placement: of the models that the stage uses.
            progress: of the job.
            inference: whether tensors are made in inference mode; otherwise only without
                gradients, as TRELLIS.2's exporter needs it.

        Raises:
            EngineBrokenError: the device cannot be used any more, also when cleaning up fails.
        """
        torch = self._torch
        # The lock is held until the models are restored: the next stage must not find one of
        # them half moved. The current device belongs to the thread, so it is set for each stage.
        with self._lock:
            self.check()
            with self._memory.as_current_device():
                try:
                    with (
                        translated_device_errors(progress, free_memory=self._memory.free),
                        torch.inference_mode() if inference else torch.no_grad(),
                        torch.random.fork_rng(devices=[]),
                    ):
                        yield
                except EngineBrokenError as error:
                    # Any call on the device would only raise this error again.
                    self.broken = copy.copy(error)
                    raise
                except BaseException as error:
                    # The error's frames hold tensors on the device, and a reference cycle keeps
                    # the error until the next garbage collection.
                    progress.raised = None
                    release_frames(error)
                    self._restore(placement, progress.stage)
                    raise

    def _restore(self, placement: ModelPlacement, stage: str) -> None:
        try:
            placement.restore()
            self._clean_up()
        except Exception as error:
            # Which model is on which device is now unknown.
            self.broken = EngineBrokenError(
                f"the device failed permanently after {stage}: {first_line(error)}; restart the "
                "server"
            )
            raise copy.copy(self.broken) from error
