"""Every error that this server raises on purpose, as one tree.

    ServerError
    ├── ConfigError                the operator's file or environment is wrong; the start stops
    ├── InputError                 what the client sent cannot be meant
    │   ├── TooLargeError          … is over a limit
    │   └── JobNotFoundError       … names a job that is not there
    ├── UnauthorizedError          no API key, or a wrong one
    ├── JobCancelledError          the job was cancelled while somebody waited for it
    ├── TextureTimeoutError        the texture was not ready in time; the job goes on
    ├── EngineError                the engine failed on this job
    │   ├── EngineBrokenError      … and on every later one: only a new process helps
    │   ├── OutOfMemoryError       … for want of device memory
    │   ├── ExportError            … or the mesh could not be turned into a file
    │   └── MissingPackageError    … or a package it needs is not installed
    ├── StoreError                 what was kept is damaged, gone, or cannot be written
    └── UnavailableError           not now; ask again in `retry_after_s`
        ├── LoadingError           the model is loading, or failed to
        ├── QueueFullError         too many jobs wait
        ├── TooManyRequestsError   this client asks too often, or for too much at once
        ├── UnhealthyError         something hangs or broke for good; a restart is due
        └── ShuttingDownError      the process is leaving

Domain code raises only these; a foreign error is translated, `from` its cause, in the
module that calls the foreign package. `app` maps the tree to HTTP.
"""


class ServerError(Exception):
    """Base of the tree. `str()` is one sentence, safe to show to a client."""


class ConfigError(ServerError):
    """A configuration that cannot be used: names the file, the key and what is allowed."""


class InputError(ServerError):
    """What the client sent cannot be meant: names the field."""


class TooLargeError(InputError):
    """A body, image or mesh over a limit: names the limit."""


class JobNotFoundError(InputError):
    """No job has that hash or uid: never had, or aged out."""


class UnauthorizedError(ServerError):
    """API keys are configured, and none or a wrong one was sent."""


class JobCancelledError(ServerError):
    """The job was cancelled."""


class TextureTimeoutError(ServerError):
    """The texture was not ready within `worker.texture_timeout_seconds`."""


class EngineError(ServerError):
    """The engine failed on this job; the sentence carries no path and no stack."""


class EngineBrokenError(EngineError):
    """The engine failed in a way that it cannot recover from in this process."""


class OutOfMemoryError(EngineError):
    """The device ran out of memory, after whatever retries there were."""


class ExportError(EngineError):
    """The mesh could not be cleaned, unwrapped, baked or written."""


class MissingPackageError(EngineError):
    """An optional package is not installed: names the line that installs it."""


class StoreError(ServerError):
    """What was kept of a job is damaged or gone, or the directory cannot be used.

    Attributes:
        is_lost: it will not come back.
    """

    def __init__(self, message: str, *, is_lost: bool = False) -> None:
        super().__init__(message)
        self.is_lost = is_lost


class UnavailableError(ServerError):
    """Not now.

    Attributes:
        retry_after_s: whole seconds after which asking again makes sense.
    """

    def __init__(self, message: str, *, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LoadingError(UnavailableError):
    """The model is loading, or its load failed and the sentence says why."""


class QueueFullError(UnavailableError):
    """`worker.max_queue_length` jobs already wait."""


class TooManyRequestsError(UnavailableError):
    """One client is over its own limit, of requests a minute or of jobs at once."""


class UnhealthyError(UnavailableError):
    """The process cannot serve until it is restarted; the sentence says why."""


class ShuttingDownError(UnavailableError):
    """The process is leaving."""
