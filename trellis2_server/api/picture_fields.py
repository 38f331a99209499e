"""The pictures of a request: the fields that may have them, and what they are together.

Does not know: HTTP, how a body is parsed, what is in a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.base64_text import decode_base64
from trellis2_server.inputs.images import PictureSet
from trellis2_server.request_fields import MAX_PICTURES, SIDES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trellis2_server.inputs.images import Pictures
    from trellis2_server.request_fields import Side

#: One picture. A form may have several parts of this name.
SINGLE: Final = "image"
#: Field → side of the object. The second name of each is that of Hunyuan3D's multi-view clients.
SIDE_FIELDS: Final[Mapping[str, Side]] = {
    name: side for side in SIDES for name in (f"image_{side}", f"mv_image_{side}")
}
#: Lists of pictures; the second one as `data:` URIs.
LISTS: Final = ("images", "image_urls")
#: Longest beginning of a URL that is looked at, characters; longer ones are refused anyway.
_MAX_URL_LENGTH: Final = 4096
#: Every field that has a picture.
PICTURE_FIELDS: Final = (SINGLE, *LISTS, *SIDE_FIELDS)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A picture in base64, see `decode_base64`.

    Attributes:
        text: the base64, with or without a `data:` prefix.
    """

    text: str | bytes | memoryview


#: Content of a picture file, or its base64.
Sent = bytes | Encoded


def values_of(name: str, value: object) -> list[Sent]:
    """Return the pictures of a JSON field.

    Args:
        name: the field.
        value: its value; long strings are views of their UTF-8. None: no picture.

    Raises:
        InputError: the value is no string, or, of a list, not a list of strings.
    """
    if value is None:
        return []
    if name not in LISTS:
        if not isinstance(value, str | bytes | memoryview):
            more = (
                "; several pictures go into images"
                if name == SINGLE and isinstance(value, list)
                else ""
            )
            raise InputError(f"{name}: must be a base64 string{more}")
        return [Encoded(value)]
    if not isinstance(value, list):
        raise InputError(f"{name}: must be a list of 1 to {MAX_PICTURES} base64 strings")
    for index, text in enumerate(value, 1):
        if not isinstance(text, str | bytes | memoryview):
            raise InputError(f"{name}, picture {index}: must be a base64 string")
    return [Encoded(text) for text in value]


def is_web_url(value: object) -> bool:
    """Return whether a picture is an http or https URL, which no picture or base64 looks like."""
    return _begin(value, 8).lower().startswith(("http://", "https://"))


def is_data_uri(value: object) -> bool:
    """Return whether a field is a `data:` URI, which is a file and not fetched."""
    return _begin(value, 64).lstrip()[:5].lower() == "data:"


def _begin(value: object, length: int) -> str:
    """Return the beginning of a text or of its UTF-8; of anything else, nothing."""
    if isinstance(value, bytes | memoryview):
        return bytes(value[:length]).decode("utf-8", "replace")
    return value[:length] if isinstance(value, str) else ""


def take_url(sent: dict[str, list[Sent]]) -> dict[str, str]:
    """Remove the only picture if it is an http or https URL; return its field with the URL.

    Args:
        sent: field → its pictures.
    """
    values = sent.get(SINGLE, [])
    if len(values) != 1 or sum(map(len, sent.values())) > 1:
        return {}
    text = values[0].text if isinstance(values[0], Encoded) else values[0]
    if not is_web_url(text):
        return {}
    del sent[SINGLE]
    url = text[:_MAX_URL_LENGTH]
    return {SINGLE: url if isinstance(url, str) else bytes(url).decode("utf-8", "replace")}


def read_pictures(sent: Mapping[str, Sequence[Sent]], *, max_bytes: int) -> Pictures | None:
    """Return the picture of a request, or its pictures in order; None: it has none.

    Args:
        sent: field → its pictures.
        max_bytes: limit of the size of each picture, and of all together, bytes.

    Raises:
        InputError: there are too many, one is empty or not base64, or fields exclude each other.
        TooLargeError: one, or all together, exceed `max_bytes`.
    """
    chosen = _choose({name: values for name, values in sent.items() if values})
    if len(chosen) > MAX_PICTURES:
        raise InputError(
            f"{chosen[0][0]}: {len(chosen)} pictures, and at most {MAX_PICTURES} are allowed"
        )
    contents: list[bytes] = []
    for index, (name, value, side) in enumerate(chosen, 1):
        label = name if side or len(chosen) == 1 else f"{name}, picture {index}"
        contents.append(_content(label, name, value, max_bytes))
        if sum(map(len, contents)) > max_bytes:
            raise TooLargeError(f"{name}: all pictures are over the limit of {max_bytes} bytes")
    if len(contents) < 2:  # noqa: PLR2004 - one picture is no set
        return contents[0] if contents else None
    return PictureSet(tuple(contents), tuple(side for _, _, side in chosen))


def _choose(sent: Mapping[str, Sequence[Sent]]) -> list[tuple[str, Sent, Side | None]]:
    """Return field, content and side of each picture, in order.

    Raises:
        InputError: fields exclude each other, or there is a side but no front.
    """
    lists = [name for name in LISTS if name in sent]
    sides: dict[Side, str] = {SIDE_FIELDS[name]: name for name in SIDE_FIELDS if name in sent}
    for name in SIDE_FIELDS:
        if name in sent and sides[SIDE_FIELDS[name]] != name:
            raise InputError(f"{sides[SIDE_FIELDS[name]]}: not together with {name}; send one")
    is_list = len(sent.get(SINGLE, ())) > 1
    ways = [*lists, *sides.values()][: len(lists) + bool(sides)]
    if SINGLE in sent and (is_list or lists):
        ways = [SINGLE, *ways]
    if len(ways) > 1:
        raise InputError(f"{ways[1]}: not together with {ways[0]}; send the pictures in one way")
    if not sides:
        names = ways or ([SINGLE] if SINGLE in sent else [])
        return [(name, value, None) for name in names for value in sent[name]]
    if SINGLE in sent:
        if "front" in sides:
            raise InputError(f"{sides['front']}: not together with image, which is the front, too")
        sides["front"] = SINGLE
    if "front" not in sides:
        name = next(iter(sides.values()))
        raise InputError(f"{name}: needs image_front, a picture of the front")
    return list(_by_side(sent, sides))


def _by_side(
    sent: Mapping[str, Sequence[Sent]], sides: Mapping[Side, str]
) -> Iterator[tuple[str, Sent, Side]]:
    for side in SIDES:
        if side in sides:
            name = sides[side]
            if len(sent[name]) > 1:
                raise InputError(f"{name}: sent more than once")
            yield name, sent[name][0], side


def _content(label: str, name: str, value: Sent, max_bytes: int) -> bytes:
    if not isinstance(value, Encoded):
        if not value:
            raise InputError(f"{label}: empty")
        return value
    if name == "image_urls" and not is_data_uri(value.text):
        raise InputError(f"{label}: must be a data: URI with the picture itself")
    return decode_base64(value.text, max_bytes=max_bytes, name=label)
