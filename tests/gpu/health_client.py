"""Asks `/healthcheck` every five milliseconds until the standard input ends.

    python health_client.py PORT

Prints a line when it begins, then the milliseconds of each reply as JSON. Uses the standard
library only, since it runs beside what it measures.

Does not know: what the server does meanwhile.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time


def main() -> None:
    """Ask until the input ends."""
    is_over = threading.Event()

    def read() -> None:
        sys.stdin.read()
        is_over.set()

    threading.Thread(target=read, daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
    taken: list[float] = []
    print("began", flush=True)
    while not is_over.wait(0.005):
        began = time.perf_counter()
        connection.request("GET", "/healthcheck")
        connection.getresponse().read()
        taken.append(1e3 * (time.perf_counter() - began))
    print(json.dumps([round(value, 3) for value in taken]))


if __name__ == "__main__":
    main()
