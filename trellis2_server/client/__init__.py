"""Client of the server, for Python and for terminals.

    from trellis2_server.client import Client

    with Client("http://localhost:8082") as client:
        result = client.generate("photo.jpg", seed=7, on_progress=print)
    Path("photo.glb").write_bytes(result.model)

`AsyncClient` is the same for asyncio, and `python -m trellis2_server.client` for a terminal.
The client does not need the server's packages. It requires httpx, tqdm for progress bars, and
NumPy and Pillow for thumbnails. It also works with a Hunyuan3D server, but without progress
within a step and without cancelling.
"""

from trellis2_server.client.client import AsyncClient, Client
from trellis2_server.client.errors import (
    BusyError,
    ClientError,
    DrawingError,
    JobCancelledError,
    JobError,
    JobFailedError,
    JobLostError,
    NotFoundError,
    ProtocolError,
    RefusedError,
    ReplyError,
    UnauthorizedError,
    UnreachableError,
    UsageError,
)
from trellis2_server.client.options import OPTIONS, Options
from trellis2_server.client.progress import Progress
from trellis2_server.client.records import Health, JobState, Result
from trellis2_server.purposes import PURPOSES

__all__ = [
    "OPTIONS",
    "PURPOSES",
    "AsyncClient",
    "BusyError",
    "Client",
    "ClientError",
    "DrawingError",
    "Health",
    "JobCancelledError",
    "JobError",
    "JobFailedError",
    "JobLostError",
    "JobState",
    "NotFoundError",
    "Options",
    "Progress",
    "ProtocolError",
    "RefusedError",
    "ReplyError",
    "Result",
    "UnauthorizedError",
    "UnreachableError",
    "UsageError",
]
