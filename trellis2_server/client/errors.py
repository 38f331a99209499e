"""Every error that the client raises on purpose, as one tree.

    ClientError
    ├── UsageError             what is asked for cannot be: an option that there is not, an
    │                          address that is none, a picture that cannot be read
    ├── UnreachableError       no answer, or half of one, for longer than `patience_s`
    ├── ReplyError             the server answered, and not with what was asked for
    │   ├── RefusedError       what was sent cannot be meant, or is over a limit (400, 413)
    │   ├── UnauthorizedError  no API key, or a wrong one (401, 403)
    │   ├── NotFoundError      it has no such job or file (404)
    │   ├── BusyError          not now (429, 503), for longer than `patience_s`
    │   └── ProtocolError      no reply of this API: another server's, or a proxy's
    ├── JobError               the job ended without its model
    │   ├── JobFailedError     the engine could not do it, and why
    │   ├── JobCancelledError  somebody cancelled it
    │   └── JobLostError       the server knows nothing of it any more
    └── DrawingError           a GLB that cannot be drawn

`str()` is one sentence, where there is one the server's own. None of them carries the key.
"""


class ClientError(Exception):
    """Base of the tree."""


class UsageError(ClientError):
    """What is asked for cannot be; nothing was sent."""


class UnreachableError(ClientError):
    """The server gave no answer: nobody listens there, or the connection broke."""


class ReplyError(ClientError):
    """The server answered, and not with what was asked for.

    Attributes:
        status: of HTTP.
        code: the server's `error_code`; None where it gave none.
    """

    def __init__(self, message: str, *, status: int, code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class RefusedError(ReplyError):
    """What was sent cannot be meant, or is over a limit."""


class UnauthorizedError(ReplyError):
    """No API key was sent, or a wrong one."""


class NotFoundError(ReplyError):
    """The server has no such job or file."""


class BusyError(ReplyError):
    """Not now: loading, full, leaving.

    Attributes:
        retry_after_s: after how long asking again makes sense; None where it does not say.
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
    """No reply of this API."""


class JobError(ClientError):
    """The job ended without its model.

    Attributes:
        uid: the job's name on the server.
    """

    def __init__(self, message: str, *, uid: str) -> None:
        super().__init__(message)
        self.uid = uid


class JobFailedError(JobError):
    """The engine could not do it; the sentence is the server's."""


class JobCancelledError(JobError):
    """Somebody cancelled the job."""


class JobLostError(JobError):
    """The server knows nothing of the job any more, and sending it again was in vain."""


class DrawingError(ClientError):
    """A GLB that cannot be drawn: none at all, compressed, or empty."""
