"""Prometheus metrics of one application: counters, histograms, and the current state.

The number of label values is bounded, whatever clients send.

Does not know: routes, how jobs are run.
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
    from trellis2_server.jobs.service import Health
    from trellis2_server.jobs.steps import Step

#: Prometheus text format.
MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_METHODS: Final = frozenset({"GET", "POST", "DELETE", "HEAD", "OPTIONS"})
_HTTP_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_STEP_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
#: Linux: has an entry for each thread, including those of native libraries.
_THREADS: Final = Path("/proc/self/task")


class Metrics:
    """The metrics of one application, in their own registry."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=registry)  # memory, file descriptors, CPU; only with /proc
        self._requests = Counter(
            "trellis2_http_requests_total",
            "HTTP requests, by method, route and status.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._request_seconds = Histogram(
            "trellis2_http_request_seconds",
            "Time from the request headers to the end of the response, seconds.",
            ("route",),
            registry=registry,
            buckets=_HTTP_SECONDS,
        )
        self._received = Counter(
            "trellis2_http_received_bytes_total",
            "Size of all request bodies, bytes.",
            registry=registry,
        )
        self._sent = Counter(
            "trellis2_http_sent_bytes_total",
            "Size of all response bodies, bytes.",
            registry=registry,
        )
        self._ready = Gauge(
            "trellis2_ready",
            "1: the server can generate models. 0: loading, shutting down, or failed.",
            ("engine",),
            registry=registry,
        )
        self._queue = Gauge(
            "trellis2_queue_length", "Jobs running plus jobs waiting.", registry=registry
        )
        self._kept = Gauge(
            "trellis2_jobs_kept", "Jobs in the registry, by status.", ("status",), registry=registry
        )
        self._memory = Gauge(
            "trellis2_device_memory_bytes",
            "Memory of the engine's device: used, weights in it, peak since the last reading, "
            "outside of PyTorch's allocator, and total, bytes.",
            ("kind",),
            registry=registry,
        )
        self._step_seconds = Histogram(
            "trellis2_step_seconds",
            "Duration of successful steps, seconds.",
            ("step",),
            registry=registry,
            buckets=_STEP_SECONDS,
        )
        self._ended = Counter(
            "trellis2_jobs_ended_total",
            "Finished jobs, including failed and cancelled ones; a job counts twice if its texture "
            "was requested after its shape was finished.",
            ("engine", "status"),
            registry=registry,
        )
        self._matched = Counter(
            "trellis2_jobs_matched_total",
            "Requests that matched an existing job, by upload or by picture.",
            ("by",),
            registry=registry,
        )
        self._retries = Counter(
            "trellis2_out_of_memory_retries_total",
            "Retries with a lower memory demand, including low_vram, after the engine ran out of "
            "memory.",
            registry=registry,
        )
        self._decoders = Gauge(
            "trellis2_decoders", "Processes that decode uploads, busy or not.", registry=registry
        )
        self._decoder_ends = Counter(
            "trellis2_decoder_ends_total",
            "Decoders that were killed while they decoded an upload, or that ended by themselves, "
            "by reason.",
            ("reason",),
            registry=registry,
        )
        self._decoding_seconds = Histogram(
            "trellis2_decoding_seconds",
            "Duration of decoding one upload, successful or not, seconds.",
            ("task",),
            registry=registry,
            buckets=_STEP_SECONDS,
        )
        self._threads = Gauge("trellis2_threads", "Threads of the process.", registry=registry)

    def note_request(  # noqa: PLR0913, PLR0917 - one argument per measured value
        self, method: str, route: str, status: int, seconds: float, received: int, sent: int
    ) -> None:
        """Count a request after its response; sizes are in bytes."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)
        self._received.inc(received)
        self._sent.inc(sent)

    def note_step(self, step: Step, seconds: float) -> None:
        """Count a successful step."""
        self._step_seconds.labels(step).observe(seconds)

    def note_end(self, engine: str, status: Status) -> None:
        """Count a finished job."""
        self._ended.labels(engine, status.value).inc()

    def note_match(self, how: str) -> None:
        """Count a request that matched an existing job."""
        self._matched.labels(how).inc()

    def note_retry(self) -> None:
        """Count a retry after the engine ran out of memory."""
        self._retries.inc()

    def note_decoding(self, task: str, seconds: float) -> None:
        """Count a decoded or refused upload."""
        self._decoding_seconds.labels(task).observe(seconds)

    def note_decoder_end(self, reason: str) -> None:
        """Count a decoder that was killed or has crashed."""
        self._decoder_ends.labels(reason).inc()

    def note_decoders(self, count: int) -> None:
        """Note how many decoders there are."""
        self._decoders.set(count)

    def render(self, health: Health) -> bytes:
        """Return all metrics in the Prometheus text format, updated from the server's health."""
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
