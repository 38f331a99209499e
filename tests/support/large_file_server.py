"""A server with a large stored file, for a separate process whose memory a test measures.

    python -m tests.support.large_file_server FOLDER BYTES

Prints the URL of the file on one line, and runs until its standard input ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from tests.support.engines import GatedEngine
from tests.support.server import fields, serving, settings, until

if TYPE_CHECKING:
    from tests.support.server import Server


def store_large_file(server: Server, uid: str, content: bytes) -> None:
    """Replace the textured model of a finished job."""

    async def store() -> None:
        server.manager.archive.store_file(uid, "textured.glb", content)
        await server.manager.archive.flush()

    asyncio.run_coroutine_threadsafe(store(), server.manager._loop).result()


def main() -> None:
    configured = settings(worker={"result_dir": sys.argv[1]})
    with serving(GatedEngine(), configured) as server:
        server.wait_until_loaded()
        uid = server.generate(fields(texture=True)).headers["X-Job-Id"]
        until(lambda: server.is_idle, "everything is stored")
        store_large_file(server, uid, os.urandom(int(sys.argv[2])))
        sys.stdout.write(f"{server.url}/jobs/{uid}/textured.glb\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
