"""`Webhook`: what a request asks to be told of its job, and where.

Does not know: how it is sent.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, get_args

WebhookEvent = Literal["shape", "completed", "failed"]
#: In the order in which a job has them.
EVENTS: Final[tuple[WebhookEvent, ...]] = get_args(WebhookEvent)
DEFAULT_EVENTS: Final[tuple[WebhookEvent, ...]] = ("completed", "failed")
#: Kind of the stored names of webhooks; see `JobJournal.name`.
WEBHOOK: Final = "webhook"

#: Why a webhook is refused where none can be sent.
NO_WEBHOOKS: Final = (
    "webhook: this server sends none; poll the job instead, or ask the operator for "
    "server.webhook_hosts"
)


class Webhook(NamedTuple):
    """What a request asks for.

    Attributes:
        url: where messages go.
        events: of which events.
    """

    url: str
    events: tuple[WebhookEvent, ...] = DEFAULT_EVENTS
