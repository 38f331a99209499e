"""Cut, delay and kill the machines of a Ray cluster, and measure what clients notice.

    python bench/cluster_cuts.py                        everything; takes about 40 minutes
    python bench/cluster_cuts.py --scenario desk        some scenarios
    python bench/cluster_cuts.py --scenario engine --state export    in some states of a job
    python bench/cluster_cuts.py --json cuts.json       write all rows there, too

The machines are namespaces of this host with addresses, processes and shared memory of their own
(`tests/support/network.py`): a head, machines with one engine each, and one with the clients. The
engines wait until the scenario lets them go on; HTTP, the job service, Ray and the exports are
real. Ray's limits are its defaults.

- engine: the machine of an engine, in each state of a job, cut off for 5 and 20 s, and for good;
  its Ray killed; its power lost. Seconds from the cut to the end of the client's request.
- ingress: one of two ingresses, cut off while clients wait there.
- desk: the machine with the job service, of two that could have it.
- head: the head, whose loss is Ray's.
- between: two machines that reach the head, but not each other.
- slow: links with delay and loss.
- disk: results on a full disk; a full disk below Ray's own files.

Linux only, as root. Requires the packages of the tests on Ray.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.cluster_links import between, disk, slow  # noqa: E402 - after the path is set
from bench.cluster_scenarios import STATES, engine  # noqa: E402
from bench.cluster_services import desk, head, ingress  # noqa: E402
from bench.record import Record, add_option  # noqa: E402
from tests.support.network import why_unavailable  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


SCENARIOS: Final[dict[str, Callable[[ThreadPoolExecutor], Iterable[dict[str, Any]]]]] = {
    "engine": engine,
    "ingress": ingress,
    "desk": desk,
    "head": head,
    "slow": slow,
    "disk": disk,
    "between": between,
}


def measure(names: list[str], states: list[str], record: Record) -> None:
    """Measure scenarios, that of an engine in some states of a job; print each row."""
    scenarios = SCENARIOS | {"engine": partial(engine, states=states)}
    with ThreadPoolExecutor(64) as pool:
        for name in names:
            for row in scenarios[name](pool):
                record.add(name, {"load": os.getloadavg()[0], **row})
                print("| " + " | ".join(str(value) for value in (name, *row.values())) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--state", nargs="+", choices=STATES, default=list(STATES))
    add_option(parser)
    arguments = parser.parse_args()
    reason = why_unavailable()
    if reason:
        raise SystemExit(reason)
    record = Record(__file__, arguments)
    measure(arguments.scenario, arguments.state, record)


if __name__ == "__main__":
    main()
