"""`PictureMaker`: has a picture made of a text, by a server with OpenAI's images API.

    POST /v1/images/generations  {"prompt", "n": 1, "model", "size", "response_format", "seed"}
    → {"data": [{"b64_json": …} | {"url": …}]}  or an error, {"error": {"message", "code"}}

OpenAI, LocalAI, stable-diffusion.cpp, SGLang, vLLM-Omni and others serve it. What comes back is not
trusted: it is bounded, and decoded later like a client's file.

Does not know: jobs, settings.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from trellis2_server.base64_text import decode_base64
from trellis2_server.errors import (
    InputError,
    OutboundError,
    OutboundTimeoutError,
    TooLargeError,
    UnavailableError,
)
from trellis2_server.large_json import parse_nested
from trellis2_server.outbound.hosts import HostList
from trellis2_server.outbound.pictures import PictureFetcher
from trellis2_server.outbound.sender import OutboundRequest, Policy, Sender, resolve_by_system
from trellis2_server.outbound.urls import parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.outbound.sender import Reply, Resolve

#: Largest picture, bytes; 2048 x 2048 pixels as PNG have less than half of it.
MAX_PICTURE_BYTES: Final = 33_554_432
#: Largest reply, bytes: such a picture in base64.
MAX_REPLY_BYTES: Final = 46_137_344
#: Pictures that are remembered for further requests with the same text and seed, and their size.
MAX_REMEMBERED: Final = 32
MAX_REMEMBERED_BYTES: Final = 33_554_432
#: Longest part of the other server's error that a client sees, characters.
_MAX_MESSAGE: Final = 300
#: How pictures begin: PNG, JPEG, WebP and other RIFF files, GIF.
_SIGNATURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"GIF8")
#: Codes of errors that say that the text is not allowed.
_REFUSALS: Final = frozenset({"content_policy_violation", "moderation_blocked", "content_filter"})
_WHO: Final = "the text-to-image server"
_NAME: Final = "text"


@dataclass(frozen=True, slots=True, repr=False)
class ImageService:
    """A text-to-image server. It has no `repr`: it has a key.

    Attributes:
        url: of its images API.
        prompt_suffix: follows each text.
        model: name of the model; None: not sent.
        size: "WIDTHxHEIGHT"; None: not sent.
        response_format: form of the picture to ask for; None: not sent.
        sends_seed: whether the seed is sent.
        timeout_s: limit of one picture, seconds.
        max_requests: pictures at one time.
        key: API key; None: none is sent.
    """

    url: str
    prompt_suffix: str = ""
    model: str | None = None
    size: str | None = None
    response_format: str | None = None
    sends_seed: bool = False
    timeout_s: float = 180.0
    max_requests: int = 2
    key: str | None = None

    @property
    def signature(self) -> str:
        """What decides, beside text and seed, which picture is made."""
        return json.dumps([self.url, self.prompt_suffix, self.model, self.size])


class PictureMaker:
    """Has pictures made. Belongs to one event loop.

    The same text with the same seed is the same picture while it is remembered, so that other
    parameters of a request do not change the object.

    Args:
        service: the server.
        image_hosts: hosts besides that server from which it may have pictures fetched.
        resolve: resolves names.

    Attributes:
        service: the same.
    """

    def __init__(
        self,
        service: ImageService,
        image_hosts: HostList,
        resolve: Resolve = resolve_by_system,
    ) -> None:
        self.service = service
        self._url = parse_url(service.url, "text_to_image.url")
        own = Policy(HostList([self._url.entry]), "text_to_image.url", _WHO, trusts_addresses=True)
        self._sender = Sender(own, resolve)
        self._fetcher = PictureFetcher(
            image_hosts, MAX_PICTURE_BYTES, timeout_s=service.timeout_s, resolve=resolve
        )
        self._authorization = {"Authorization": f"Bearer {service.key}"} if service.key else {}
        self._turns = asyncio.Semaphore(service.max_requests)
        self._remembered: OrderedDict[str, bytes] = OrderedDict()
        self._making: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def make(self, text: str, seed: int, key: str) -> bytes:
        """Return a picture of a text, as a file: PNG, JPEG, WebP or GIF.

        Args:
            text: what to show.
            seed: of the job.
            key: the same for the same text, seed and owner.

        Raises:
            InputError: the server refuses the text.
            UnavailableError: it has too much to do.
            OutboundTimeoutError: it did not reply in time.
            OutboundError: it failed.
        """
        making = self._making.setdefault(key, asyncio.Lock())
        async with making:
            picture = self._remembered.get(key)
            if picture is None:
                async with self._turns:
                    picture = await self._make(text, seed)
                self._remember(key, picture)
            self._remembered.move_to_end(key)
            return picture

    def _remember(self, key: str, picture: bytes) -> None:
        self._remembered[key] = picture
        while len(self._remembered) > 1 and (
            len(self._remembered) > MAX_REMEMBERED
            or sum(map(len, self._remembered.values())) > MAX_REMEMBERED_BYTES
        ):
            self._remembered.popitem(last=False)

    async def _make(self, text: str, seed: int) -> bytes:
        service = self.service
        fields: dict[str, object] = {
            "prompt": text + service.prompt_suffix,
            "n": 1,
            "model": service.model,
            "size": service.size,
            "response_format": service.response_format,
            "seed": seed if service.sends_seed else None,
        }
        body = json.dumps({key: value for key, value in fields.items() if value is not None})
        headers = {
            **self._authorization,
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        request = OutboundRequest(
            service.timeout_s, MAX_REPLY_BYTES, "POST", headers, body.encode()
        )
        reply = await self._sender.send(self._url, request, _NAME)
        if reply.status != HTTPStatus.OK:
            raise self._error(reply)
        picture = await asyncio.to_thread(_picture, reply.body)
        if isinstance(picture, str):
            picture = await self._fetch(picture)
        if not picture.startswith(_SIGNATURES):
            raise OutboundError(f"{_NAME}: {_WHO} sent something else than a picture")
        return picture

    async def _fetch(self, address: str) -> bytes:
        """Return the picture that a reply names by its URL."""
        failed = f"{_NAME}: the picture that {_WHO} made could not be fetched"
        try:
            url = parse_url(self._url.join(address), "its URL")
            if url.origin != self._url.origin:
                return await self._fetcher.fetch(address, "its URL")
            request = OutboundRequest(
                self.service.timeout_s, MAX_PICTURE_BYTES, headers=self._authorization
            )
            reply = await self._sender.send(url, request, "its URL")
        except OutboundTimeoutError:
            raise
        except (InputError, OutboundError, ValueError) as error:
            raise OutboundError(f"{failed} ({error})") from None
        if reply.status != HTTPStatus.OK:
            raise OutboundError(f"{failed} (status {reply.status})")
        return reply.body

    def _error(self, reply: Reply) -> InputError | OutboundError | UnavailableError:
        """Return the error for a reply with another status than 200."""
        status = reply.status
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            # Its text may show a part of the key.
            return OutboundError(
                f"{_NAME}: {_WHO} does not accept this server's key (status {status})"
            )
        message, code = _message(reply.body)
        if self.service.key and self.service.key in message:
            message = ""
        said = f": {message}" if message else ""
        if code in _REFUSALS:
            return InputError(f"{_NAME}: {_WHO} refuses it{said}")
        if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
            return UnavailableError(
                f"{_NAME}: {_WHO} has too much to do (status {status}){said}", retry_after_s=30
            )
        return OutboundError(f"{_NAME}: {_WHO} failed (status {status}){said}")


def _picture(body: bytes) -> bytes | str:
    """Return the picture of a reply, or its URL. Other threads can run in between.

    Raises:
        OutboundError: the reply has neither, or the picture is too large.
    """
    broken = f"{_NAME}: {_WHO} sent a reply without a picture"
    try:
        first: Any = parse_nested(body)["data"][0]
        content, url = first.get("b64_json"), first.get("url")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise OutboundError(broken) from error
    except TooLargeError as error:
        raise OutboundError(f"{broken}: it has too much else") from error
    if not (content and isinstance(content, str | memoryview)) and _is_data_uri(url):
        content = url
    if content and isinstance(content, str | memoryview):
        try:
            return decode_base64(content, max_bytes=MAX_PICTURE_BYTES, name=broken)
        except (InputError, TooLargeError) as error:
            raise OutboundError(str(error)) from error
    if isinstance(url, str) and url:
        return url
    raise OutboundError(broken)


def _is_data_uri(url: object) -> bool:
    if isinstance(url, memoryview):
        url = bytes(url[:5]).decode("latin-1")
    return isinstance(url, str) and url[:5].lower() == "data:"


def _message(body: bytes) -> tuple[str, str]:
    """Return what an error says, on one line and cut, and its code."""
    try:
        parsed: Any = json.loads(body[:65_536])
    except (ValueError, RecursionError):
        return "", ""
    error: Any = parsed.get("error", parsed) if isinstance(parsed, dict) else None
    details: Mapping[str, Any] = error if isinstance(error, dict) else {}
    text = error if isinstance(error, str) else details.get("message") or details.get("detail")
    codes = [details.get("code"), details.get("type")]
    code = next((each for each in codes if isinstance(each, str) and each in _REFUSALS), "")
    line = " ".join(text.split()) if isinstance(text, str) else ""
    shown = "".join(char for char in line if char.isprintable())
    return (shown if len(shown) <= _MAX_MESSAGE else f"{shown[:_MAX_MESSAGE]}…"), code
