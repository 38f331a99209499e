"""Decoder processes: read what clients send, outside of the server's process.

    pictures, meshes  what the server calls
    objects           the same, for finding objects in pixels
    background        a process that holds a background model
    pool              processes that are reused, and replaced when they fail
    process           one process, as the server sees it
    transport         requests and results between both, through memory without a name
    worker            the program of the process
    tasks             what it can do, with object_tasks; background_tasks: with a model
    confinement       what it may not do
    seccomp, landlock the same, by means of Linux
    messages, memory  JSON and arrays that the server checks; memory files
    limits            memory, time, size of a result

The server does not trust a decoder, which may have been taken over by a file: it accepts JSON of
bounded size and arrays of known types, and nothing that could run code.
"""

from trellis2_server.decoders.limits import DecoderLimits, decoder_limits
from trellis2_server.decoders.pool import DecoderPool

__all__ = ["DecoderLimits", "DecoderPool", "decoder_limits"]
