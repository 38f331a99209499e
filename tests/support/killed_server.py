"""A server with the gated engine in a process of its own, made to be killed.

    python -m tests.killed_server FOLDER

It writes its address as one line, and serves until its standard input ends.
"""

from __future__ import annotations

import sys

from tests.support.engines import GatedEngine
from tests.support.server import serving, settings


def main() -> None:
    configured = settings(worker={"result_dir": sys.argv[1]})
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
