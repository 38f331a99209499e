"""Every error that this server raises on purpose, as one tree.

    ServerError
    ├── ConfigError                the operator's settings are invalid; the start is aborted
    ├── InputError                 the client's input is invalid
    │   ├── TooLargeError          … or exceeds a limit
    │   ├── ContentCodingError     … or is encoded in a way that the server cannot decode
    │   └── JobNotFoundError       … or names a job that does not exist
    ├── UnauthorizedError          the API key is missing or wrong
    ├── JobNotReadyError           what the client asks of a job is not there yet
    ├── JobCancelledError          the job was cancelled while a client waited for it
    ├── TextureTimeoutError        the texture was not ready in time; the job continues
    ├── EngineError                the engine failed on this job
    │   ├── EngineBrokenError      … and cannot recover in this process
    │   ├── StepTimeoutError       … because a step on the CPU took too long
    │   ├── OutOfMemoryError       … because the device ran out of memory
    │   ├── ExportError            … or the mesh could not be written to a file
    │   └── MissingPackageError    … or a package that it needs is not installed
    ├── StoreError                 a stored file is damaged, missing, or cannot be written
    ├── OutboundError              another server that this one calls failed, or is not reached
    │   └── OutboundTimeoutError   … or did not reply in time
    └── UnavailableError           temporary: retry after `retry_after_s`
        ├── LoadingError           the model is loading, or failed to load
        ├── NoSpaceError           a temporary folder, or the memory for files, is full
        ├── QueueFullError         the queue is full
        ├── TooManyRequestsError   this client exceeds its own rate or concurrency limit
        ├── UnhealthyError         the process cannot recover; it must be restarted
        └── ShuttingDownError      the process is shutting down

Domain code raises only these classes. Errors of other packages are translated, with
`raise … from`, in the module that calls the package. `api.error_handlers` maps the tree to HTTP.
"""

from __future__ import annotations

from typing import Final


class ServerError(Exception):
    """Base class. `str()` is one sentence that is safe to show to a client."""


class ConfigError(ServerError):
    """Invalid settings. The message names the file, the key and the allowed values."""


class InputError(ServerError):
    """Invalid client input. The message names the field."""


class TooLargeError(InputError):
    """A request body, image or mesh exceeds a limit. The message names the limit."""


class ContentCodingError(InputError):
    """The `Content-Encoding` of a request is not supported. The message names it."""


class JobNotFoundError(InputError):
    """No job has this image hash or uid, or the job was removed."""


class UnauthorizedError(ServerError):
    """API keys are configured, and the request has no key or a wrong one."""


class JobNotReadyError(ServerError):
    """A job has not yet made what the client asks for. The message names it."""


class JobCancelledError(ServerError):
    """The job was cancelled."""


class TextureTimeoutError(ServerError):
    """The texture was not ready within `worker.texture_timeout_seconds`."""


class EngineError(ServerError):
    """The engine failed on this job. The message has no file paths and no stack trace."""


class EngineBrokenError(EngineError):
    """The engine failed and cannot recover in this process."""


class StepTimeoutError(EngineError):
    """A step that does not use the device exceeded `worker.stage_timeout_seconds`."""


class OutOfMemoryError(EngineError):
    """The device ran out of memory, and all retries failed."""


class ExportError(EngineError):
    """The mesh could not be cleaned, unwrapped, baked or written."""


class MissingPackageError(EngineError):
    """An optional package is not installed. The message has the install command."""


class StoreError(ServerError):
    """A stored file is damaged or missing, or the storage directory cannot be used.

    Attributes:
        is_lost: whether the file is permanently lost.
    """

    def __init__(self, message: str, *, is_lost: bool = False) -> None:
        super().__init__(message)
        self.is_lost = is_lost


class OutboundError(ServerError):
    """A server that this one calls has failed. The message has no address and no key."""


class OutboundTimeoutError(OutboundError):
    """A server that this one calls did not reply in time."""


class UnavailableError(ServerError):
    """The request cannot be served now, but may succeed later.

    Attributes:
        retry_after_s: time to wait before a retry, whole seconds.
    """

    def __init__(self, message: str, *, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LoadingError(UnavailableError):
    """The model is loading, or failed to load. The message gives the cause."""


class NoSpaceError(UnavailableError):
    """There is no space for temporary files. An operator may have to make some."""


class QueueFullError(UnavailableError):
    """`worker.max_queue_length` jobs are already waiting."""


class TooManyRequestsError(UnavailableError):
    """One client exceeds its limit of requests per minute or of simultaneous jobs."""


class UnhealthyError(UnavailableError):
    """The process cannot serve until it is restarted. The message gives the cause."""


class ShuttingDownError(UnavailableError):
    """The process is shutting down."""


#: Text of that error. Clients recognize it.
SHUTTING_DOWN: Final = "the server is shutting down"


def shutting_down() -> ShuttingDownError:
    """Return the error for clients of a process that shuts down."""
    return ShuttingDownError(SHUTTING_DOWN, retry_after_s=30)
