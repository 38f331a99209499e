"""Exceptions that the client raises.

    ClientError
    ├── UsageError             invalid argument: an unknown option, an invalid address,
    │                          an unreadable file
    ├── UnreachableError       no reply, or an incomplete one, for longer than `patience_s`
    ├── ReplyError             the server replied with an error
    │   ├── RefusedError       the request is invalid or exceeds a limit (400, 413, 415, 422)
    │   ├── UnauthorizedError  the API key is missing or wrong (401, 403)
    │   ├── NotFoundError      the server has no such job or file (404, 405, 410)
    │   ├── BusyError          temporarily unavailable (429, 502, 503, 504), for longer
    │   │                      than `patience_s`
    │   └── ProtocolError      not a reply of this API, but of another server or a proxy
    ├── JobError               the job ended without a model
    │   ├── JobFailedError     the job failed on the server
    │   ├── JobCancelledError  the job was cancelled
    │   └── JobLostError       the server no longer has the job
    └── DrawingError           a GLB that cannot be drawn

`str()` is one sentence; it is the server's own sentence if the server sent one. No message
contains the API key.
"""


class ClientError(Exception):
    """Base class of all exceptions of the client."""


class UsageError(ClientError):
    """An argument is invalid; nothing was sent."""


class UnreachableError(ClientError):
    """The server did not reply: the connection was refused, lost or timed out."""


class ReplyError(ClientError):
    """The server replied with an error.

    Attributes:
        status: HTTP status code.
        code: `error_code` of the reply; None if it has none.
    """

    def __init__(self, message: str, *, status: int, code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class RefusedError(ReplyError):
    """The request is invalid or exceeds a limit."""


class UnauthorizedError(ReplyError):
    """The API key is missing or wrong."""


class NotFoundError(ReplyError):
    """The server has no such job or file."""


class BusyError(ReplyError):
    """The server is temporarily unavailable: loading, full or shutting down.

    Attributes:
        retry_after_s: time after which to retry, seconds; None if the reply does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, status=status, code=code)
        self.retry_after_s = retry_after_s


class ProtocolError(ReplyError):
    """The reply is not a reply of this API."""


class JobError(ClientError):
    """The job ended without a model.

    Attributes:
        uid: identifier of the job on the server.
    """

    def __init__(self, message: str, *, uid: str) -> None:
        super().__init__(message)
        self.uid = uid


class JobFailedError(JobError):
    """The job failed on the server; the message is the server's."""


class JobCancelledError(JobError):
    """The job was cancelled."""


class JobLostError(JobError):
    """The server no longer has the job, and submitting it again did not help."""


class DrawingError(ClientError):
    """A GLB cannot be drawn: it is invalid, compressed or empty."""
