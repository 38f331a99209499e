"""`--prefetch`: fetch the background model, for images and installers.

Does not know: how files are fetched, TRELLIS.2's weights.
"""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import EngineError
from trellis2_server.inputs.background.fetcher import ModelFetcher
from trellis2_server.inputs.background.opening import fetch_ahead

if TYPE_CHECKING:
    from trellis2_server.inputs.background import FetchState
    from trellis2_server.settings import ModelSettings

#: What is downloaded between two lines, as a part of the file, or bytes if its size is unknown.
_PART: Final = 0.1
_PART_BYTES: Final = 2**24


def prefetch(settings: ModelSettings) -> int:
    """Fetch the background model's files that are missing or damaged; print the progress.

    Args:
        settings: which model, and whether the machine is offline.

    Returns:
        The exit code. 0: all files are there, and those with known hashes are whole, or no model
        is needed. 1: they are not; the reason is on standard error.
    """
    if settings.background not in {"auto", "rembg"} and not settings.background_prefetch:
        print(f"model.background is {settings.background}, which needs no model of rembg")  # noqa: T201
        return 0
    name = settings.background_model
    with closing(ModelFetcher(on_state=_Lines().show)) as fetcher:
        try:
            fetch_ahead(name, fetcher, offline=settings.offline)
        except EngineError as error:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the answer to a command
            return 1
    print(f"the background model {name} is on this machine")  # noqa: T201
    return 0


class _Lines:
    """Prints the progress of downloads, a line for each tenth of a file."""

    def __init__(self) -> None:
        self._last: tuple[str | None, int] | None = None

    def show(self, state: FetchState) -> None:
        """Print a line if there is more to say than in the last one."""
        if state.state != "fetching":
            return
        done, total = state.done_bytes, state.total_bytes
        part = int(done / (_PART * total)) if total else done // _PART_BYTES
        if (state.file_name, part) == self._last:
            return
        self._last = (state.file_name, part)
        size = f" of {total / 1e6:.1f}" if total else ""
        print(f"{state.file_name}  {done / 1e6:.1f}{size} MB", flush=True)  # noqa: T201
