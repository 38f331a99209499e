"""The error of drawing. It is none of the server's: the client draws without the server."""


class DrawingError(Exception):
    """A model cannot be drawn; the text says why."""
