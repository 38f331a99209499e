"""`Webhooks`: tells URLs of clients what has become of their jobs.

Each event of a webhook is one message: the job's JSON, at the time of the event. A message that no
host takes is sent again, ever later, and given up after some hours. Where results are stored,
so are webhooks whose messages are still to be sent: another process goes on with them. A host may
thus get a message twice, with the same id.

Does not know: HTTP, what a job's JSON is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trellis2_server.errors import InputError, ServerError
from trellis2_server.jobs.job import Status
from trellis2_server.jobs.webhook import EVENTS, NO_WEBHOOKS, WEBHOOK
from trellis2_server.storage.store import JobName

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from trellis2_server.jobs.active_jobs import ActiveJobs
    from trellis2_server.jobs.job import Job
    from trellis2_server.jobs.subscriptions import Subscription
    from trellis2_server.jobs.webhook import Webhook, WebhookEvent
    from trellis2_server.outbound.webhooks import WebhookSender
    from trellis2_server.settings import ServerSettings
    from trellis2_server.storage.archive import Archive

logger = logging.getLogger(__name__)

#: Webhooks of one job with messages to be sent.
MAX_WEBHOOKS: Final = 8
#: Delays before a message is sent again, seconds; about seven hours in all.
RETRY_DELAYS_S: Final = (2.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 14400.0)
#: Further attempts for `shape`: what comes after it is worth more.
_SHAPE_RETRIES: Final = 3
#: Messages that are being sent at one time.
_MAX_SENDING: Final = 32


@dataclass(slots=True, eq=False, repr=False)
class _Pending:
    """A webhook with messages to be sent. It has no `repr`: its URL may be secret.

    Attributes:
        uid: of the job.
        url: where messages go.
        events: those that are to come.
        name: its own id.
        sending: the event whose message is being sent.
    """

    uid: str
    url: str
    events: list[WebhookEvent]
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    sending: WebhookEvent | None = None


class _Failure(NamedTuple):
    """Why a message was not taken.

    Attributes:
        reason: a sentence, without the URL.
        is_final: whether there is no use in sending it again.
    """

    reason: str
    is_final: bool = False


class Webhooks:
    """The webhooks of all jobs. Belongs to the event loop's thread.

    Args:
        server: hosts and secret.
        active_jobs: their records and subscriptions.
        archive: where webhooks are stored.

    Attributes:
        render: returns a job as the JSON object that `GET /jobs/{id}` replies with.
        retry_delays_s: see `RETRY_DELAYS_S`.
    """

    render: Callable[[Job], dict[str, Any]]

    def __init__(self, server: ServerSettings, active_jobs: ActiveJobs, archive: Archive) -> None:
        self.retry_delays_s: Sequence[float] = RETRY_DELAYS_S
        self._server = server
        self._active_jobs = active_jobs
        self._registry = active_jobs.registry
        self._archive = archive
        self._tasks: dict[_Pending, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(_MAX_SENDING)
        self._sender: WebhookSender | None = None
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    async def add(self, job: Job, webhook: Webhook) -> None:
        """Send messages about a job, also of events that have been; return when that is stored.

        A webhook with the same URL that still has messages to send gets the further events.

        Raises:
            InputError: the URL is not allowed, or the job has too many webhooks.
            JobNotFoundError: the job was removed.
        """
        self._ready().check(webhook.url)
        job = self._registry.get(job.uid, job.owner)  # it may have been merged since
        others = [pending for pending in self._tasks if pending.uid == job.uid]
        known = next(
            (each for each in others if each.url == webhook.url and each.sending is None), None
        )
        if known is not None:
            known.events = [e for e in EVENTS if e in known.events or e in webhook.events]
            self._active_jobs.subscriptions.touch(job.uid)
        elif len(others) >= MAX_WEBHOOKS:
            raise InputError(f"webhook: this job has {len(others)} already, which is the most")
        else:
            known = _Pending(job.uid, webhook.url, [e for e in EVENTS if e in webhook.events])
            self._start(known)
        self._save(known)
        await self._archive.wait_until_saved(job.uid)

    def restore(self, name: JobName) -> None:
        """Go on with a webhook that an earlier process stored, if this one may send any."""
        if not self._is_configured:
            return
        try:
            payload: dict[str, Any] = json.loads(name.payload)
            events: list[WebhookEvent] = [each for each in EVENTS if each in payload["events"]]
            pending = _Pending(name.uid, payload["url"], events, name.name)
        except (ValueError, LookupError, TypeError):
            logger.warning("A webhook cannot be read", extra={"uid": name.uid})
            return
        if events:
            self._start(pending)

    def close(self) -> None:
        """Send nothing more; what is stored stays for the next process."""
        self._is_closed = True
        for task in self._tasks.values():
            task.cancel()

    @property
    def _is_configured(self) -> bool:
        return bool(self._server.webhook_hosts) and self._server.webhook_secret is not None

    def _ready(self) -> WebhookSender:
        """Return the sender. Its modules are imported by the first request that needs them."""
        secret = self._server.webhook_secret
        if secret is None or not self._is_configured:
            raise InputError(NO_WEBHOOKS)
        if self._sender is None:
            from trellis2_server.outbound.hosts import HostList
            from trellis2_server.outbound.signatures import signing_key
            from trellis2_server.outbound.webhooks import WebhookSender

            self._sender = WebhookSender(
                HostList(self._server.webhook_hosts), signing_key(secret.get_secret_value())
            )
        return self._sender

    def _start(self, pending: _Pending) -> None:
        if self._is_closed:
            return
        self._tasks[pending] = asyncio.get_running_loop().create_task(self._follow(pending))

    def _save(self, pending: _Pending) -> None:
        """Store what is to be sent; of a webhook that has ended, not even its URL."""
        if self._archive.is_persistent:
            payload = {"url": pending.url if pending.events else "", "events": pending.events}
            name = JobName(WEBHOOK, pending.name, pending.uid, json.dumps(payload))
            self._archive.save_name(name)

    # ---- sending -------------------------------------------------------------------------

    async def _follow(self, pending: _Pending) -> None:
        """Send the messages of a webhook as their events happen, one after the other."""
        try:
            with self._active_jobs.subscriptions.subscribe(
                self._registry[pending.uid]
            ) as subscription:
                while pending.events:
                    await self._next(pending, subscription)
        except Exception:
            logger.exception("A webhook failed", extra={"uid": pending.uid})
        finally:  # at once: nobody may add events to it any more
            del self._tasks[pending]

    async def _next(self, pending: _Pending, subscription: Subscription) -> None:
        """Send the message of one event, if there is one, or wait for the next change."""
        job = subscription.job
        if job.uid != pending.uid:  # merged, and what was stored for it is deleted
            pending.uid = job.uid
            self._save(pending)
        event = _due(pending.events, job)
        if event is None and job.status.is_finished:
            pending.events = []
        elif event is None:
            with self._waiting(job):
                await subscription.wait(3600.0)
            return
        else:
            pending.sending = event
            await self._deliver(pending, event, job)
            pending.sending = None
            pending.events = [] if event != "shape" else [e for e in pending.events if e != event]
        if job.uid in self._registry:
            self._save(pending)

    @contextmanager
    def _waiting(self, job: Job) -> Generator[None]:
        """Count as a request that waits: a job whose client is told of it is not abandoned."""
        active = self._active_jobs.get(job.uid)
        if active is None:
            yield
            return
        active.waiters += 1
        try:
            yield
        finally:
            active.waiters -= 1

    async def _deliver(self, pending: _Pending, event: WebhookEvent, job: Job) -> None:
        """Send one message until a host takes it, or it is given up."""
        await self._archive.wait_until_saved(job.uid)
        body = json.dumps({"event": event, **self.render(job)}).encode()
        about = {"uid": job.uid, "webhook_event": event}
        delays = self.retry_delays_s[: _SHAPE_RETRIES if event == "shape" else None]
        for delay_s in (*delays, None):
            failure = await self._attempt(pending, event, body)
            if failure is None:
                logger.info("Webhook delivered", extra=about)
                return
            about["reason"] = failure.reason
            if delay_s is None or failure.is_final:
                logger.warning("Webhook given up", extra=about)
                return
            logger.info("Webhook not delivered, to be sent again", extra=about)
            await asyncio.sleep(delay_s)
            if job.uid not in self._registry:  # deleted, or aged out
                return

    async def _attempt(
        self, pending: _Pending, event: WebhookEvent, body: bytes
    ) -> _Failure | None:
        """Send a message once; return why it was not taken; None: it was."""
        from trellis2_server.outbound.webhooks import GONE, is_delivered

        async with self._turns:
            try:
                status = await self._ready().send(pending.url, f"{pending.name}-{event}", body)
            except InputError as error:  # the host may not be called, or not any more
                return _Failure(str(error), is_final=True)
            except ServerError as error:
                return _Failure(str(error))
        if is_delivered(status):
            return None
        return _Failure(f"status {status}", is_final=status == GONE)


def _due(events: Sequence[WebhookEvent], job: Job) -> WebhookEvent | None:
    """Return the first of the events that the job has had; None: none yet."""
    if "shape" in events and job.shape_glb is not None:
        return "shape"
    if "completed" in events and job.status is Status.COMPLETED:
        return "completed"
    if "failed" in events and job.status in {Status.ERROR, Status.CANCELLED}:
        return "failed"
    return None
