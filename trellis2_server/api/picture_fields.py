"""The pictures of a request: the fields that may have them, and what they are together.

Does not know: HTTP, how a body is parsed, what is in a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trellis2_server.base64_text import decode_base64
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.images import PictureSet
from trellis2_server.request_fields import MAX_PICTURES, SIDES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from trellis2_server.inputs.images import Pictures
    from trellis2_server.request_fields import Side

#: One picture. A form may have several parts of this name.
SINGLE: Final = "image"
#: Field → side of the object. The second name of each is that of Hunyuan3D's multi-view clients.
SIDE_FIELDS: Final[Mapping[str, Side]] = {
    name: side for side in SIDES for name in (f"image_{side}", f"mv_image_{side}")
}
#: Lists of pictures; the second one as URLs, `data:` ones too.
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


#: Content of a picture file, or its base64, or its http(s) URL in place of that.
Sent = bytes | Encoded


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PictureUrl:
    """A picture that is to be fetched. It has no `repr`: its URL may be secret.

    Attributes:
        name: what messages call it.
        url: http or https.
    """

    name: str
    url: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class UnfetchedPictures:
    """One to eight pictures, some of which are to be fetched.

    Attributes:
        entries: their files or URLs, in order.
        sides: what side each shows; None: unknown.
    """

    entries: tuple[bytes | PictureUrl, ...]
    sides: tuple[Side | None, ...]

    def __len__(self) -> int:
        """Size of the files that are there, bytes."""
        return sum(len(entry) for entry in self.entries if isinstance(entry, bytes))

    @property
    def urls(self) -> list[PictureUrl]:
        """Those to be fetched, in order."""
        return [entry for entry in self.entries if isinstance(entry, PictureUrl)]

    def with_contents(self, fetched: Iterable[bytes]) -> Pictures:
        """Return the pictures, with the contents of `urls`."""
        contents = iter(fetched)
        files = [entry if isinstance(entry, bytes) else next(contents) for entry in self.entries]
        return _together(files, self.sides)


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
    text = _text_of(values[0])
    if not is_web_url(text):
        return {}
    del sent[SINGLE]
    return {SINGLE: _begin(text, _MAX_URL_LENGTH)}


def read_pictures(
    sent: Mapping[str, Sequence[Sent]], *, max_bytes: int
) -> Pictures | UnfetchedPictures | None:
    """Return the picture of a request, or its pictures in order; None: it has none.

    Of pictures some of which are http(s) URLs, nothing is fetched here.

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
    sides: tuple[Side | None, ...] = tuple(side for _, _, side in chosen)
    contents: list[bytes] = []
    urls: dict[int, PictureUrl] = {}
    for index, (name, value, side) in enumerate(chosen):
        label = name if side or len(chosen) == 1 else f"{name}, picture {index + 1}"
        text = _text_of(value)
        if is_web_url(text):
            urls[index] = PictureUrl(label, _begin(text, _MAX_URL_LENGTH))
            continue
        contents.append(_content(label, name, value, max_bytes))
        check_total(name, sum(map(len, contents)), max_bytes)
    if not urls:
        return _together(contents, sides) if contents else None
    files = iter(contents)
    return UnfetchedPictures(
        tuple(urls.get(index) or next(files) for index in range(len(chosen))), sides
    )


def _text_of(value: Sent) -> str | bytes | memoryview:
    return value.text if isinstance(value, Encoded) else value


def check_total(name: str, size: int, max_bytes: int) -> None:
    """Return if all pictures together are within the limit, bytes.

    Raises:
        TooLargeError: they are not.
    """
    if size > max_bytes:
        raise TooLargeError(f"{name}: all pictures are over the limit of {max_bytes} bytes")


def _together(contents: Sequence[bytes], sides: Sequence[Side | None]) -> Pictures:
    if len(contents) == 1:
        return contents[0]
    return PictureSet(tuple(contents), tuple(sides))


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
        raise InputError(f"{label}: must be an http(s) URL, or a data: URI with the picture itself")
    return decode_base64(value.text, max_bytes=max_bytes, name=label)
