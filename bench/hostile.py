"""Attack a server with hostile files and clients, while a good client uses it.

    python bench/hostile.py                          every row, as a table
    python bench/hostile.py --json out.json          the same, and every figure in a file
    python bench/hostile.py --only png-bomb obj-huge two rows; a beginning with * stands for several
    python bench/hostile.py --server ../checkout     attack the server of another checkout
    python bench/hostile.py --list                   the names of the rows

Each row is one file or behaviour (`hostile_rows.py`), made by code and under 5 MB. The server runs
with small settings in a memory cage of 2 GB (`hostile_cage.py`). Beside the attack, a good client
posts a small picture again and again, and another process asks `/healthcheck` every 20 ms
(`hostile_witness.py`); the attack's own process has a lower priority than they and the server. The
three have different addresses. Judged for each row (`hostile_judge.py`):

- the good client's picture takes at most 1.5 s and 3 times its time alone;
- `/healthcheck`: p99 at most 50 ms, never over 250 ms;
- the resident memory of the server's own process grows by at most 64 MB and the bodies' size;
- the process lives;
- every request of the attack ends within 45 s as the row allows;
- nothing is left: jobs, processes, shared memory, descriptors, temporary files.

The server is started again after a row that failed. Exit status 1 if any did. Other load on the
machine disturbs the times: "late ms" says how late the witness itself was (p99).
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.hostile_cage import CagedServer, Holdings, with_difference  # noqa: E402 - after the path
from bench.hostile_judge import SPARE_DESCRIPTORS, figures, problems  # noqa: E402
from bench.hostile_meshes import stl_dust  # noqa: E402
from bench.hostile_rows import ROWS, Row  # noqa: E402
from bench.hostile_send import LONG_S, Attacker  # noqa: E402
from bench.hostile_witness import small_picture  # noqa: E402
from bench.record import Record, add_option  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

#: Shortest time that the witnesses look.
LOOK_S: Final = 3.0
#: Longest time that a row's attack may take.
ATTACK_S: Final = 75.0
#: Time that the server has to let go of what the attack used.
SETTLE_S: Final = 15.0
#: How often a new server is warmed up with thirteen requests.
WARM_UPS: Final = 6
#: How long one of them waits for each part of a reply, seconds: where others compute, too.
WARM_UP_S: Final = 300.0
#: Memory that comes and goes in an idle server.
STEADY_BYTES: Final = 2_000_000


def known_settings(checkout: Path) -> dict[str, set[str]]:
    """Return the settings that the server of a checkout has, by section."""
    code = (
        "import json; from trellis2_server.settings import Settings as S; print(json.dumps("
        "{n: list(f.annotation.model_fields) for n, f in S.model_fields.items()}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env=environment, check=True, capture_output=True
    )
    return {name: set(fields) for name, fields in json.loads(out.stdout).items()}


class Servers:
    """The server for the next row: the last one if it is unharmed and has the same settings.

    Args:
        checkout: folder with the server's sources.
        warm_ups: how often a new server is warmed up; fewer are enough if memory is not judged.

    Attributes:
        busy_bytes: the largest resident memory of the present one in its warm-up.
    """

    def __init__(self, checkout: Path, warm_ups: int = WARM_UPS) -> None:
        self._checkout = checkout
        self._warm_ups = warm_ups
        self._known = known_settings(checkout)
        self._current: CagedServer | None = None
        self._sections: dict[str, Any] = {}
        self._children = 0
        self.busy_bytes = 0

    def take(self, row: Row) -> tuple[CagedServer, int]:
        """Return a server that is warm, and how many children it may have."""
        sections = {
            name: {key: value for key, value in keys.items() if key in self._known[name]}
            for name, keys in row.configuration.items()
        }
        if self._current is None or sections != self._sections:
            self.discard()
            started = CagedServer(self._checkout, sections)
            self._current, self._sections = started, sections
            started.wait_until_ready()
            self._children = warm_up(started, self._warm_ups)
            self.busy_bytes = started.peak_rss_bytes()
        return self._current, self._children

    def discard(self) -> list[str]:
        """Stop the server; return what it leaves behind."""
        left = self._current.stop() if self._current else []
        self._current = None
        return left


def warm_up(server: CagedServer, times: int) -> int:
    """Use what the rows use, so that they measure themselves; return the number of children."""
    client = Attacker(server.port, server.pid)
    other = Attacker(server.port, server.pid, "127.0.0.67")
    client.patience_s = other.patience_s = WARM_UP_S
    mesh, most = stl_dust(200), 0

    def picture(seed: int) -> Callable[[], object]:
        has_texture = str(seed % 4 > 0).lower()
        sender = client if seed % 3 else other  # a place is kept for a second client
        return lambda: sender.form(image=small_picture(), seed=seed, texture=has_texture)

    def given_mesh() -> None:
        client.form(image=small_picture(), mesh=mesh, texture="true", seed=1)

    for begin in range(0, 12 * times, 12):
        client.together(*map(picture, range(begin, begin + 12)), given_mesh)
        most = max(most, server.holdings().children)
    outcomes = [*client.outcomes, *other.outcomes]
    bad = [outcome for outcome in outcomes if outcome.status not in {200, 429, 503}]
    if bad:
        raise SystemExit(f"warm-up: {bad[0].status} {bad[0].text}")
    wait_until_quiet(server)
    return most


def wait_until_quiet(server: CagedServer) -> None:
    """Wait until no job is left and the memory stays: snapshots are made after the last reply."""
    last = 0

    def is_quiet() -> bool:
        nonlocal last
        before, last = last, server.holdings().rss_bytes
        threading.Event().wait(0.3)
        return queue_length(server) == 0 and abs(last - before) < STEADY_BYTES

    wait_until(is_quiet, SETTLE_S)


def queue_length(server: CagedServer) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(json.loads(server.get("/worker_status")[1])["queue_length"])
    return -1


def wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.05)
    return True


class Helper:
    """A process beside the server that answers with a line of JSON at its end."""

    def __init__(self, script: str, *arguments: object) -> None:
        command = [sys.executable, str(ROOT / "bench" / script), *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._first = ""
        self._ready = threading.Event()
        threading.Thread(target=self._read_first, daemon=True).start()

    def _read_first(self) -> None:
        assert self.process.stdout is not None
        self._first = self.process.stdout.readline()
        self._ready.set()

    def wait_until_ready(self, limit_s: float) -> bool:
        return self._ready.wait(limit_s) and bool(self._first)

    def go(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def result(self, limit_s: float) -> dict[str, Any]:
        """End its input; return its answer, or `error`."""
        try:
            out, err = self.process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            err += "\nit did not end in time"
        with contextlib.suppress(ValueError, IndexError):
            return json.loads(out.splitlines()[-1])
        return {"error": (err.strip().splitlines() or ["no answer"])[-1][:200]}


_NO_GOOD: Final = {"alone_s": [], "beside_s": [], "bad": ["no answer"]}
_NO_HEALTH: Final = {"health_s": [], "late_s": [], "bad": ["no answer"]}
_NO_ATTACK: Final = {"statuses": {}, "texts": {}, "slowest_s": 0.0, "requests": 0, "most_bytes": 0}


def run(
    name: str,
    servers: Servers,
    look_s: float = LOOK_S,
    settle_s: float = SETTLE_S,
    long_s: float = LONG_S,
) -> dict[str, Any]:
    """Run one row; return its figures, with `problems`.

    Args:
        name: of the row.
        servers: where its server comes from.
        look_s: shortest time that the witnesses look, seconds.
        settle_s: time that the server has to let go of what the attack used, seconds.
        long_s: how long an attack of many requests goes on, seconds.
    """
    row = ROWS[name]
    server, children = servers.take(row)
    sender = Helper("hostile_send.py", name, server.port, server.pid, long_s)
    sender.wait_until_ready(60)
    wait_until_quiet(server)
    before = server.holdings()
    good = Helper("hostile_witness.py", row.witness, server.port)
    good.wait_until_ready(60)
    server.reset_peak()
    health = Helper("hostile_witness.py", "health", server.port)
    health.wait_until_ready(30)
    load, begin = os.getloadavg()[0], time.monotonic()
    sender.go()
    wait_until(lambda: sender.process.poll() is not None or not server.is_alive, ATTACK_S)
    threading.Event().wait(max(0.0, look_s - (time.monotonic() - begin)))
    attack = {**_NO_ATTACK, **sender.result(0.5 if server.is_alive else 5)}
    witnesses = [_NO_HEALTH | health.result(45), _NO_GOOD | good.result(45)]
    base = max(before.rss_bytes, servers.busy_bytes if row.has_jobs else 0)
    growth = server.peak_rss_bytes() - base
    code = server.process.poll()
    left, after = ([], None) if code is not None else settle(server, before, children, settle_s)
    measured = {
        "good": witnesses[1],
        "health": witnesses[0],
        "attack": attack,
        "growth_bytes": max(0, growth),
        "bodies_bytes": most_bytes(row, attack),
        "exit_code": server.process.poll(),
        "left": left,
    }
    found = figures(measured)
    found |= {"name": name, "problems": problems(row, found), "load": [load, os.getloadavg()[0]]}
    found |= {"seconds": time.monotonic() - begin, "cage": server.cage, **server.cage_figures()}
    found["changed"] = with_difference(before, after) if after else {}
    if found["problems"]:
        found["log"] = server.log_tail()
        servers.discard()
    return found


def most_bytes(row: Row, attack: dict[str, Any]) -> int:
    """Return how much of bodies the server had to hold at the same time."""
    limit = row.sections.get("server", {}).get("max_inflight_bytes", 2**62)
    return min(attack["most_bytes"], limit)


def settle(
    server: CagedServer, before: Holdings, children: int, limit_s: float
) -> tuple[list[str], Holdings | None]:
    """Wait until the server has let go of everything; return what it has not."""
    now: list[Holdings] = []

    def left() -> list[str]:
        try:
            after = server.holdings()
        except OSError:
            return ["the server has ended"]
        now[:] = [after]
        shm, files = after.shm - before.shm, after.files - before.files
        found = [f"jobs are left: {queue_length(server)}"] if queue_length(server) else []
        if after.children > max(children, before.children):
            found.append(f"processes are left: {after.children}, before {before.children}")
        if after.descriptors > before.descriptors + SPARE_DESCRIPTORS:
            found.append(f"descriptors: {after.descriptors}, before {before.descriptors}")
        found += [f"shared memory is left: {sorted(shm)[:3]}"] if shm else []
        found += [f"temporary files are left: {sorted(files)[:3]}"] if files else []
        return found

    wait_until(lambda: not left(), limit_s)
    return left(), now[0] if now else None


def print_row(found: dict[str, Any]) -> None:
    statuses = " ".join(f"{k}x{v}" if v > 1 else k for k, v in found["attack"]["statuses"].items())
    print(
        f"{found['name']:24} {'FAIL' if found['problems'] else 'ok':4} "
        f"{found['good_max_s']:6.2f} {found['good_limit_s']:5.2f} "
        f"{found['health_p99_ms']:7.1f} {found['health_max_ms']:7.1f} {found['late_p99_ms']:7.1f} "
        f"{found['growth_mb']:6.0f} {found['growth_limit_mb']:5.0f} "
        f"{found['attack']['slowest_s']:6.2f}  {statuses or '-'}",
        flush=True,
    )
    for problem in found["problems"]:
        print(f"{'':28} {problem}", flush=True)


def chosen(patterns: list[str] | None) -> list[str]:
    """Return the names that a pattern matches. Raises `SystemExit` for one that matches none."""
    names: list[str] = []
    for pattern in patterns or ["*"]:
        found = fnmatch.filter(ROWS, pattern)
        if not found:
            raise SystemExit(f"no row {pattern}; see --list")
        names += [name for name in found if name not in names]
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    add_option(parser)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows; * is a wildcard")
    parser.add_argument("--server", type=Path, default=ROOT, help="checkout of the server (this)")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    arguments = parser.parse_args()
    names = chosen(arguments.only)
    if arguments.list:
        print("\n".join(f"{name:24} {ROWS[name].why}".rstrip() for name in names))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which ends the server
    record = Record(__file__, arguments, checkout=arguments.server.resolve())
    servers = Servers(arguments.server.resolve())
    print(
        f"{'row':24} {'':4} {'good s':>6} {'<=':>5} {'p99 ms':>7} {'max ms':>7} {'late ms':>7} "
        f"{'+MB':>6} {'<=':>5} {'took s':>6}  statuses"
    )
    results: list[dict[str, Any]] = []
    try:
        for name in names:
            results.append(run(name, servers))
            print_row(results[-1])
            record.add("attacks", results[-1])
    finally:
        left = servers.discard()
    for what in left:
        print(f"left at the end: {what}")
    failed = [found["name"] for found in results if found["problems"]]
    print(f"{len(results) - len(failed)} of {len(results)} rows passed")
    return int(bool(failed or left))


if __name__ == "__main__":
    sys.exit(main())
