"""The protocol between client and server, without I/O.

Each operation is a generator that yields actions (see `actions`), which a transport performs.
"""
