"""URLs that are accepted, and URLs that two parsers could read differently."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trellis2_server.errors import InputError
from trellis2_server.outbound.urls import MAX_URL_LENGTH, parse_url


@pytest.mark.parametrize(
    ("text", "host", "port", "target", "authority"),
    [
        ("https://Example.com", "example.com", 443, "/", "example.com"),
        ("HTTP://example.com:80/a?b=c#d", "example.com", 80, "/a?b=c", "example.com"),
        ("http://example.com:8080?q", "example.com", 8080, "/?q", "example.com:8080"),
        ("http://good.com#@evil.com", "good.com", 80, "/", "good.com"),
        ("https://[::1]:444/x@y", ipaddress.ip_address("::1"), 444, "/x@y", "[::1]:444"),
        ("http://example.com:1/", "example.com", 1, "/", "example.com:1"),
        ("http://example.com:65535/", "example.com", 65_535, "/", "example.com:65535"),
        ("https://example.com:80/", "example.com", 80, "/", "example.com:80"),
        ("http://10.0.0.1/", ipaddress.ip_address("10.0.0.1"), 80, "/", "10.0.0.1"),
    ],
)  # fmt: skip
def test_a_url_has_a_host_a_port_and_a_target(
    text: str, host: object, port: int, target: str, authority: str
) -> None:
    url = parse_url(text, "image_url")
    assert (url.host, url.port, url.target, url.authority) == (host, port, target, authority)


@pytest.mark.parametrize(
    "text",
    ["file:///etc/passwd", "ftp://example.com/", "gopher://example.com/", "//example.com/", "a.com",
     "data:image/png;base64,AAAA", "javascript:1", "http:/example.com", "http:example.com", "",
     "http://good.com@evil.com/", "http://user:secret@good.com/", "http://good.com\\@evil.com/",
     "http://evil.com:80:80/", "http://[::1]evil/", "http://:80/",
     "http:///path", "http://good.com\t.evil.com/", "http://good.com/\r\nHost: evil", " http://a.com/",
     "http://a.com/ ", "http://a.com/\u00fc", "http://\uff41.com/", "http://a.com:99999/",
     "http://a.com:0/", "http://a.com:65536/", "http://0x7f000001/", "http://2130706433/", "http://0177.0.0.1/",
     "http://127.1/", "http://a.com:/", "http://[fe80::1%25eth0]/", "http://a%2ecom/", "http://a.com/{}"],
)  # fmt: skip
def test_a_url_that_can_be_read_in_two_ways_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InputError, match=r"^image_url: ") as caught:
        parse_url(text, "image_url")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("port", [0, 65_536, 99_999])
def test_a_port_is_between_1_and_65535(port: int) -> None:
    with pytest.raises(InputError, match=r"^image_url: its port must be between 1 and 65535$"):
        parse_url(f"http://a.com:{port}/", "image_url")


@pytest.mark.parametrize(
    ("location", "target"),
    [("d", "http://a.com:81/b/d"), ("/d", "http://a.com:81/d"), ("?d", "http://a.com:81/b/c?d"),
     ("//b.com/d", "http://b.com/d"), ("https://b.com/", "https://b.com/"),
     ("", "http://a.com:81/b/c?x")],
)  # fmt: skip
def test_a_redirect_is_relative_to_the_url(location: str, target: str) -> None:
    assert parse_url("http://a.com:81/b/c?x", "image_url").join(location) == target


def test_an_origin_is_scheme_host_and_port() -> None:
    first = parse_url("http://a.com/b", "image_url")
    assert parse_url("http://a.com:80/c", "image_url").origin == first.origin
    for other in ("https://a.com/b", "http://b.com/b", "http://a.com:81/b"):
        assert parse_url(other, "image_url").origin != first.origin


@pytest.mark.parametrize("value", [1, None, ["http://a.com"], {"url": "http://a.com"}, True])
def test_what_is_no_string_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"^webhook: must be a URL, as a string$"):
        parse_url(value, "webhook")


def test_a_url_may_have_a_number_of_characters_and_no_more() -> None:
    longest = "http://a.com/".ljust(MAX_URL_LENGTH, "x")
    assert len(parse_url(longest, "image_url").target) == MAX_URL_LENGTH - len("http://a.com")
    with pytest.raises(InputError, match="over the limit of 2048 characters"):
        parse_url(f"{longest}x", "image_url")


@given(st.text(max_size=60), st.sampled_from(["http://", "https://", "http:\\\\", ""]))
@settings(max_examples=40)
def test_any_text_is_a_url_or_an_error(text: str, scheme: str) -> None:
    try:
        url = parse_url(scheme + text, "image_url")
    except InputError:
        return
    assert url.scheme in {"http", "https"}
    assert not {" ", "\r", "\n", "\\"} & set(url.target + url.authority)
    assert 0 < url.port < 65_536
