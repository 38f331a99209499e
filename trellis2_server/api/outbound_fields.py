"""Fields of a request that make this server call another host: URLs of pictures, `text`, `webhook`.

Does not know: routes, jobs, how a host is called.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from trellis2_server.api.picture_fields import check_total, is_data_uri
from trellis2_server.base64_text import decode_base64
from trellis2_server.errors import InputError
from trellis2_server.jobs.webhook import (
    DEFAULT_EVENTS,
    EVENTS,
    NO_WEBHOOKS,
    Webhook,
    WebhookEvent,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from trellis2_server.api.picture_fields import UnfetchedPictures
    from trellis2_server.inputs.images import Pictures
    from trellis2_server.outbound.pictures import PictureFetcher
    from trellis2_server.settings import Settings

#: Field with the URL of a picture, which may be a `data:` URI.
PICTURE_URL: Final = "image_url"
#: Longest `text`, characters.
MAX_TEXT_LENGTH: Final = 4000


async def fetch_picture(
    request: Request, settings: Settings, url: object, name: str = PICTURE_URL
) -> bytes:
    """Return the content of a URL that a client names, from one of `server.image_hosts`.

    Its bytes count as those of the request's body.

    Args:
        request: the request.
        settings: the whole configuration.
        url: http, https, or a `data:` URI, which needs no host.
        name: the request's field, for messages.

    Raises:
        InputError: it is no URL of a listed host, or cannot be fetched.
        TooLargeError: a `data:` URI is over the limit of a body.
        UnavailableError: too many bytes are in flight.
    """
    if is_data_uri(url):
        return decode_base64(str(url), max_bytes=settings.server.max_body_bytes, name=name)
    account = request.state.body
    held = account.held_bytes
    fetcher = _fetcher(request, settings, name)
    return await fetcher.fetch(url, name, lambda size: account.reserve(held + size))


async def fetch_pictures(
    request: Request, settings: Settings, pictures: UnfetchedPictures
) -> Pictures:
    """Return the pictures of a request, with those that are URLs, see `fetch_picture`.

    They are fetched side by side, and none if one of them may not be.

    Raises:
        InputError: one is no URL of a listed host, or cannot be fetched.
        TooLargeError: all pictures together are over the limit of a body.
        UnavailableError: too many bytes are in flight.
    """
    urls = pictures.urls
    fetcher = _fetcher(request, settings, urls[0].name)
    for each in urls:
        fetcher.check(each.url, each.name)
    account = request.state.body
    held: int = account.held_bytes
    sizes = dict.fromkeys(range(len(urls)), 0)

    def note_size(index: int, size: int) -> None:
        sizes[index] = size
        fetched = sum(sizes.values())
        name = urls[index].name.split(",")[0]
        check_total(name, len(pictures) + fetched, settings.server.max_body_bytes)
        account.reserve(held + fetched)

    tasks = [
        asyncio.create_task(fetcher.fetch(each.url, each.name, partial(note_size, index)))
        for index, each in enumerate(urls)
    ]
    try:
        return pictures.with_contents(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _fetcher(request: Request, settings: Settings, name: str) -> PictureFetcher:
    """Return the application's fetcher. Its modules are imported by the first request for it."""
    hosts = settings.server.image_hosts
    if not hosts:
        raise InputError(
            f"{name}: this server fetches no pictures; send the picture itself, or ask the "
            "operator for server.image_hosts"
        )
    state = request.app.state
    if getattr(state, "picture_fetcher", None) is None:
        from trellis2_server.outbound.hosts import HostList
        from trellis2_server.outbound.pictures import PictureFetcher

        state.picture_fetcher = PictureFetcher(HostList(hosts), settings.server.max_body_bytes)
    return state.picture_fetcher


def read_text(fields: Mapping[str, object]) -> str | None:
    """Return what a picture is to be made of; None: the request has no text.

    Raises:
        InputError: it is not a text, empty, or too long.
    """
    text = fields.get("text")
    if text is None:
        return None
    if not isinstance(text, str):
        raise InputError("text: must be a string")
    text = text.encode(errors="replace").decode().strip()  # JSON may have halves of characters
    if not text:
        raise InputError("text: empty; say what the model is to be")
    if len(text) > MAX_TEXT_LENGTH:
        raise InputError(f"text: over the limit of {MAX_TEXT_LENGTH} characters")
    return text


def read_webhook(fields: Mapping[str, object], settings: Settings) -> Webhook | None:
    """Return the webhook of a request; None: it has none.

    Raises:
        InputError: it is not a URL of a listed host, or its events are none; see
            `Webhooks.add`, which checks again.
    """
    url, names = fields.get("webhook"), fields.get("webhook_events")
    if url is None:
        return None
    if isinstance(names, str):  # of a form, or the query
        names = [part.strip() for part in names.split(",")]
    if names is None:
        return _checked(Webhook(str(url), DEFAULT_EVENTS), url, settings)
    if not isinstance(names, list) or not names or not all(name in EVENTS for name in names):
        raise InputError(f"webhook_events: must be a list of {', '.join(EVENTS)}")
    events: tuple[WebhookEvent, ...] = tuple(event for event in EVENTS if event in names)
    return _checked(Webhook(str(url), events), url, settings)


def _checked(webhook: Webhook, url: object, settings: Settings) -> Webhook:
    """Return the webhook if its host is listed: a wrong one must not cost a job."""
    hosts = settings.server.webhook_hosts
    if not hosts or settings.server.webhook_secret is None:
        raise InputError(NO_WEBHOOKS)
    from trellis2_server.outbound.hosts import HostList
    from trellis2_server.outbound.urls import check_listed, parse_url

    check_listed(parse_url(url, "webhook"), HostList(hosts), "server.webhook_hosts", "webhook")
    return webhook
