"""Tasks of the process that holds a background model.

The process sees the pixels of pictures, never a client's file. It has no network: the files of
the model are fetched by another process. It imports rembg after it has confined itself, because
onnxruntime starts a thread when it is imported, and Landlock holds for later threads only.

Does not know: who calls, when a model is fetched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trellis2_server.decoders.confinement import limit_memory
from trellis2_server.decoders.object_tasks import read_pixels
from trellis2_server.errors import EngineError
from trellis2_server.inputs.background.model_files import FileProblem
from trellis2_server.inputs.background.rembg_session import RembgSession, load_rembg
from trellis2_server.reports import no_check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.decoders.messages import Result, Task

#: Memory of a prediction, bytes. IS-Net takes 1.1 GB, whatever the size of the picture.
_PREDICTION_BYTES: Final = 2**32
#: The same for large models, as a multiple of the size of their files.
_PREDICTION_FACTOR: Final = 16


class ModelTasks:
    """The tasks, and the model that they share."""

    def __init__(self) -> None:
        self._session: RembgSession | None = None

    def load_model(self, content: memoryview, arguments: Mapping[str, Any]) -> Result:
        """Load a model; then limit this process's memory to what its predictions need.

        Args:
            content: empty.
            arguments: `name`; `threads`, null for one per core.

        Returns:
            `problem`, null if the model is loaded; see `FileProblem`.
        """
        del content
        loaded = load_rembg(arguments["name"], arguments["threads"])
        if isinstance(loaded, FileProblem):
            return {"problem": loaded.to_json()}, {}
        self._session = loaded
        limit_memory(max(_PREDICTION_BYTES, _PREDICTION_FACTOR * loaded.file_bytes))
        return {"problem": None}, {}

    def find_object(self, content: memoryview, arguments: Mapping[str, Any]) -> Result:
        """Find the object in a picture.

        Args:
            content: `rgb`, uint8 [H, W, 3].
            arguments: `height`, `width`.

        Returns:
            `mask`, uint8 [H, W].
        """
        if self._session is None:
            raise EngineError("no background model is loaded")
        return {}, {"mask": self._session.mask(read_pixels(content, arguments), no_check)}


_tasks: Final = ModelTasks()
TASKS: Final[dict[str, Task]] = {
    "load_model": _tasks.load_model,
    "find_object": _tasks.find_object,
}
