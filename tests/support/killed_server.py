"""A server with the gated engine, for a separate process that a test kills.

    python -m tests.support.killed_server FOLDER

Prints its URL on one line, and runs until its standard input ends.
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
