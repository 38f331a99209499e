"""Which pictures a request has, and in which order, whatever the form of its body."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

import pytest

from tests.support.requests_in_parts import FORM, account, form, parse
from tests.support.server import encoded, picture
from trellis2_server.api.picture_fields import (
    PICTURE_FIELDS,
    SIDE_FIELDS,
    Encoded,
    UnfetchedPictures,
    read_pictures,
    values_of,
)
from trellis2_server.errors import InputError, TooLargeError
from trellis2_server.inputs.images import PictureSet, count_of, digest_of
from trellis2_server.request_fields import MAX_PICTURES, SIDES

if TYPE_CHECKING:
    from trellis2_server.inputs.images import Pictures

A, B, C = (picture(shade) for shade in (1, 2, 3))
LARGE = picture(9, 64) + bytes(40_000)  # longer than what is parsed with the rest of the JSON


def contents(pictures: Pictures | None) -> tuple[bytes, ...]:
    assert isinstance(pictures, PictureSet)
    return pictures.contents


def in_json(**fields: Any) -> Pictures | None:
    parsed = parse([json.dumps({**fields, "seed": 3}).encode()])
    assert parsed.fields == {"seed": 3}
    return parsed.picture


def test_a_list_of_short_and_long_pictures_keeps_its_order_in_json() -> None:
    given = [LARGE, A, LARGE + b"x", B]
    sent = [f"data:image/png;base64,{encoded(each)}" for each in given]
    for name in ("images", "image_urls"):
        read = in_json(**{name: sent})
        assert contents(read) == tuple(given)
        assert isinstance(read, PictureSet)
        assert read.sides == (None,) * 4
        assert len(read) == sum(map(len, given))


def test_one_picture_is_the_same_by_every_name() -> None:
    for name in ("image", "image_front", "mv_image_front"):
        assert in_json(**{name: encoded(A)}) == A
    assert in_json(images=[encoded(A)]) == A
    assert in_json(images=[], image=encoded(A)) == A
    assert in_json(images=None, image_left=None) is None


@pytest.mark.parametrize("prefix", ["image_", "mv_image_"])
def test_sides_stand_in_one_order_however_they_are_sent(prefix: str) -> None:
    sent = {side: picture(at) for at, side in enumerate(SIDES)}
    body = {f"{prefix}{side}": encoded(sent[side]) for side in reversed(SIDES)}
    read = in_json(**body)
    assert isinstance(read, PictureSet)
    assert (read.sides, read.contents) == (SIDES, tuple(sent.values()))
    del body[f"{prefix}front"], body[f"{prefix}left"], body[f"{prefix}right"]
    read = in_json(**body, image=encoded(A))
    assert isinstance(read, PictureSet)
    assert (read.sides, read.contents) == (("front", "back"), (A, sent["back"]))


def test_a_form_has_several_parts_of_one_name_as_files_or_in_base64() -> None:
    for name in ("image", "images"):
        parts = [
            (f'name="{name}"; filename="a.png"', A),
            (f'name="{name}"', encoded(B).encode()),
            (f'name="{name}"; filename="c.png"', C),
        ]
        parsed = parse([form(*parts, ('name="seed"', b"3"))], FORM)
        assert (contents(parsed.picture), parsed.fields) == ((A, B, C), {"seed": "3"})
    parts = [(f'name="image_{side}"; filename="{side}"', picture(4)) for side in ("back", "front")]
    read = parse([form(*parts)], FORM).picture
    assert isinstance(read, PictureSet)
    assert read.sides == ("front", "back")
    with pytest.raises(InputError, match=r"^image_back: sent more than once$"):
        parse([form(parts[0], *parts)], FORM)


def test_a_form_without_parts_has_several_pictures() -> None:
    body = "&".join(f"images={quote_plus(encoded(each))}" for each in (A, B))
    parsed = parse([f"{body}&seed=3".encode()], "application/x-www-form-urlencoded")
    assert (contents(parsed.picture), parsed.fields) == ((A, B), {"seed": "3"})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"images": "QUJD"}, "^images: must be a list of 1 to 8 base64 strings$"),
        ({"images": ["QUJD", 7]}, "^images, picture 2: must be a base64 string$"),
        ({"images": ["QUJD", None]}, "^images, picture 2: must be a base64 string$"),
        ({"images": ["QUJD", "!"]}, "^images, picture 2: not base64$"),
        ({"images": ["QUJD", ""]}, "^images, picture 2: empty$"),
        ({"image": ["QUJD", "QUJD"]}, "^image: must be a base64 string; several .* images$"),
        ({"images": ["QUJD"], "image": "QUJD"}, "^images: not together with image; "),
        ({"images": ["QUJD"], "image_urls": ["QUJD"]}, "^image_urls: not together with images; "),
        ({"images": ["QUJD"], "image_left": "QUJD"}, "^image_left: not together with images; "),
        ({"image_back": "QUJD"}, "^image_back: needs image_front, "),
        ({"image_left": "QUJD", "mv_image_left": "QUJD"}, "^mv_image_left: not .* image_left; "),
        ({"image": "QUJD", "image_front": "QUJD"}, "^image_front: not together with image, "),
        ({"image_front": ["QUJD"]}, "^image_front: must be a base64 string$"),
        ({"image_urls": ["ftp://a.example/a.png"]}, r"^image_urls: must be an http\(s\) URL, or "),
        ({"image_urls": ["data:a;base64,QUJD", "file:///etc/passwd"]}, "^image_urls, picture 2: "),
        ({"image_urls": ["QUJD"]}, r"^image_urls: must be an http\(s\) URL, or a data: URI "),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_the_name_of_the_field(
    body: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        parse([json.dumps(body).encode()])


def test_eight_pictures_are_allowed_and_a_ninth_is_not() -> None:
    most = [encoded(picture(at)) for at in range(MAX_PICTURES)]
    assert count_of(in_json(images=most)) == MAX_PICTURES
    with pytest.raises(InputError, match=r"^images: 9 pictures, and at most 8 are allowed$"):
        in_json(images=[*most, "!"])  # before any of them is decoded
    parts = [(f'name="image"; filename="{at}"', picture(at)) for at in range(MAX_PICTURES + 1)]
    mesh = ('name="mesh"; filename="m"', b"mesh")
    assert count_of(parse([form(*parts[1:], mesh)], FORM).picture) == MAX_PICTURES
    with pytest.raises(InputError, match=r"^image: 9 pictures, and at most 8 are allowed$"):
        parse([form(*parts, mesh)], FORM)
    with pytest.raises(InputError, match="more than 10 files"):
        parse([form(*parts, *parts)], FORM)


def test_pictures_by_url_keep_their_places_until_they_are_fetched() -> None:
    url = "https://a.example/b.png"
    read = parse([json.dumps({"image_urls": [url, f"data:;base64,{encoded(A)}", url]}).encode()])
    assert isinstance(read.picture, UnfetchedPictures)
    assert len(read.picture) == len(A)
    asked = [(each.name, each.url) for each in read.picture.urls]
    assert asked == [("image_urls, picture 1", url), ("image_urls, picture 3", url)]
    assert contents(read.picture.with_contents([B, C])) == (B, A, C)
    parts = [('name="image_back"', url.encode()), ('name="image"; filename="a.png"', A)]
    read = parse([form(*parts)], FORM)
    assert isinstance(read.picture, UnfetchedPictures)
    assert [each.name for each in read.picture.urls] == ["image_back"]
    fetched = read.picture.with_contents([B])
    assert isinstance(fetched, PictureSet)
    assert (fetched.sides, fetched.contents) == (("front", "back"), (A, B))
    body = "&".join(f"image_urls={quote_plus(each)}" for each in (url, "HTTP://b.example/"))
    read = parse([body.encode()], "application/x-www-form-urlencoded")
    assert isinstance(read.picture, UnfetchedPictures)
    assert [each.url for each in read.picture.urls] == [url, "HTTP://b.example/"]
    only = read_pictures({"images": [Encoded(url)]}, max_bytes=1)
    assert isinstance(only, UnfetchedPictures)
    assert only.with_contents([A]) == A
    most = [url] * MAX_PICTURES
    assert isinstance(
        read_pictures({"images": [*map(Encoded, most)]}, max_bytes=1), UnfetchedPictures
    )
    with pytest.raises(InputError, match=r"^image_urls: 9 pictures, and at most 8 are allowed$"):
        in_json(image_urls=[*most, url])


def test_the_limit_of_bytes_is_for_each_picture_and_for_all() -> None:
    sent = {"images": [b"x" * 50, Encoded(encoded(b"y" * 50))]}
    assert count_of(read_pictures(sent, max_bytes=100)) == 2
    with pytest.raises(TooLargeError, match=r"^images: all pictures are over the limit of 99"):
        read_pictures(sent, max_bytes=99)
    with pytest.raises(TooLargeError, match=r"^images, picture 2: over the limit of 49 bytes"):
        read_pictures({"images": [b"x", *sent["images"][1:]]}, max_bytes=49)


def test_several_pictures_must_be_in_the_body() -> None:
    for name in PICTURE_FIELDS:
        if name != "image":
            with pytest.raises(InputError, match=f"^{name}: must be in the body"):
                parse([b"{}"], query=f"{name}=QUJD")
    body = json.dumps({"images": [encoded(A), encoded(B)]}).encode()
    with pytest.raises(InputError, match=r"^image: the query has another one than the body$"):
        parse([body], query=f"image={quote_plus(encoded(A))}")
    assert count_of(parse([body], query="seed=3").picture) == 2


def test_only_the_pictures_are_held_after_parsing() -> None:
    held = account()
    body = json.dumps({"images": [encoded(LARGE), encoded(A)], "x": "y" * 100}).encode()
    parse([body], account=held)
    assert held.held_bytes == len(LARGE) + len(A)


def test_the_digest_tells_order_sides_and_contents_apart() -> None:
    sets = [
        PictureSet((A, B), (None, None)),
        PictureSet((B, A), (None, None)),
        PictureSet((A, B), ("front", "back")),
        PictureSet((A, B), ("front", "left")),
        PictureSet((A, B, B), (None, None, None)),
    ]
    digests = {digest_of(each) for each in (*sets, A)}
    assert len(digests) == len(sets) + 1
    assert all(len(digest) == 32 for digest in digests)


def test_every_side_has_two_names() -> None:
    assert set(SIDE_FIELDS.values()) == set(SIDES)
    assert len(SIDE_FIELDS) == 2 * len(SIDES)
    assert values_of("image", None) == []
