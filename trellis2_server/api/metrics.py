"""What Prometheus is told: counters and histograms of one app, and the state at a look.

Every label has few values, however many clients there are and whatever they send.

What this module does not know: routes, how a job is worked on.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from trellis2_server.jobs.job import Status

if TYPE_CHECKING:
    from trellis2_server.jobs.steps import Step
    from trellis2_server.jobs.service import Health

#: Of the text format that every Prometheus reads.
MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_METHODS: Final = frozenset({"GET", "POST", "DELETE", "HEAD", "OPTIONS"})
_HTTP_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_STEP_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
#: Has an entry for each thread, those of native libraries too; on Linux.
_THREADS: Final = Path("/proc/self/task")


class Metrics:
    """The metrics of one app, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=registry)  # memory, descriptors, CPU; where there is a /proc
        self._requests = Counter(
            "trellis2_http_requests_total",
            "Requests answered.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._request_seconds = Histogram(
            "trellis2_http_request_seconds",
            "From a request's head to the end of its reply.",
            ("route",),
            registry=registry,
            buckets=_HTTP_SECONDS,
        )
        self._received = Counter(
            "trellis2_http_received_bytes_total", "Of requests' bodies.", registry=registry
        )
        self._sent = Counter(
            "trellis2_http_sent_bytes_total", "Of replies' bodies.", registry=registry
        )
        self._ready = Gauge(
            "trellis2_ready",
            "1: models are served. 0: loading, failed or leaving.",
            ("engine",),
            registry=registry,
        )
        self._queue = Gauge(
            "trellis2_queue_length", "Jobs running plus jobs waiting.", registry=registry
        )
        self._kept = Gauge(
            "trellis2_jobs_kept", "Jobs that are kept, by status.", ("status",), registry=registry
        )
        self._memory = Gauge(
            "trellis2_device_memory_bytes",
            "Of the engine's device: used now, at most since the last look, and in all.",
            ("kind",),
            registry=registry,
        )
        self._step_seconds = Histogram(
            "trellis2_step_seconds",
            "Of a job's step that ended well.",
            ("step",),
            registry=registry,
            buckets=_STEP_SECONDS,
        )
        self._ended = Counter(
            "trellis2_jobs_ended_total",
            "Jobs that were finished, cancelled ones too; twice, where the texture came later.",
            ("engine", "status"),
            registry=registry,
        )
        self._matched = Counter(
            "trellis2_jobs_matched_total",
            "Requests that got a job that was there, known by their upload or their picture.",
            ("by",),
            registry=registry,
        )
        self._retries = Counter(
            "trellis2_out_of_memory_retries_total",
            "Times that the engine was out of memory and tried again with less.",
            registry=registry,
        )
        self._threads = Gauge("trellis2_threads", "Of this process.", registry=registry)

    def note_request(  # noqa: PLR0913, PLR0917 - what there is to know of a request
        self, method: str, route: str, status: int, seconds: float, received: int, sent: int
    ) -> None:
        """A request has been answered."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)
        self._received.inc(received)
        self._sent.inc(sent)

    def note_step(self, step: Step, seconds: float) -> None:
        """A step has ended well."""
        self._step_seconds.labels(step).observe(seconds)

    def note_end(self, engine: str, status: Status) -> None:
        """A job is finished."""
        self._ended.labels(engine, status.value).inc()

    def note_match(self, how: str) -> None:
        """A request got a job that was there."""
        self._matched.labels(how).inc()

    def note_retry(self) -> None:
        """The engine tries again with less."""
        self._retries.inc()

    def render(self, health: Health) -> bytes:
        """All of it as text, with how the server is just now."""
        self._ready.labels(health.engine).set(health.status == "ok")
        self._queue.set(health.queue_length)
        for status in Status:
            self._kept.labels(status.value).set(health.jobs.get(status, 0))
        for kind, size in health.memory.items():
            self._memory.labels(kind).set(size)
        self._threads.set(_count_threads())
        return generate_latest(self._registry)


def _count_threads() -> int:
    if _THREADS.is_dir():
        return sum(1 for _ in _THREADS.iterdir())
    return threading.active_count()
