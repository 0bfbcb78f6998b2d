"""Accept and Content-Type headers, well-formed and not."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.server.api.errors import NotAcceptable, UnsupportedMediaType
from headway.server.api.media import chosen, decoded, kind_of

OFFERS = ("text/event-stream", "application/jsonlines", "application/json")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "text/event-stream"),
        ("", "text/event-stream"),
        (" ", "text/event-stream"),
        ("*/*", "text/event-stream"),
        ("application/json", "application/json"),
        ("Application/JSON; charset=utf-8", "application/json"),
        ("application/*", "application/jsonlines"),
        ("text/html, application/jsonlines;q=0.2", "application/jsonlines"),
        ("application/json;q=0.5, application/jsonlines;q=0.8", "application/jsonlines"),
        ("application/json;q=0.8, */*;q=0.1", "application/json"),
        ("text/event-stream;q=0, */*", "application/jsonlines"),
        ('application/json;profile="a,b";q=0.9, text/event-stream;q=0.1', "application/json"),
        ("application/json;q=x, text/event-stream;q=0.1", "text/event-stream"),
        ("application/json;q=nan, text/event-stream;q=0.1", "text/event-stream"),
        ("application/json;q=2, text/event-stream;q=0.1", "text/event-stream"),
    ],
)
def test_the_best_offer_is_chosen(accept: str | None, expected: str) -> None:
    assert chosen(accept, OFFERS) == expected


@pytest.mark.parametrize("accept", ["text/html", "application/xml;q=0.9, text/csv", "*/*;q=0", "garbage", ",,,", "a/b;" * 5000])
def test_nothing_that_fits(accept: str) -> None:
    with pytest.raises(NotAcceptable) as caught:
        chosen(accept, OFFERS)
    assert len(str(caught.value)) < 300


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_any_header_is_survived(header: str) -> None:
    for read in (lambda: chosen(header, OFFERS), lambda: kind_of(header), lambda: decoded(b"{}", header)):
        with suppress(NotAcceptable, UnsupportedMediaType):
            read()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (None, '{"é": 1}'.encode()),
        ("application/json", b'\xef\xbb\xbf{"\xc3\xa9": 1}'),
        ('application/json; charset="UTF-8"', '{"é": 1}'.encode()),
        ("application/json;charset=ISO-8859-1", b'{"\xe9": 1}'),
        ("application/json;charset=utf-16", '{"é": 1}'.encode("utf-16")),
    ],
)
def test_charsets_and_byte_order_marks(content_type: str | None, body: bytes) -> None:
    assert decoded(body, content_type) == '{"é": 1}'.encode()


@pytest.mark.parametrize(("charset", "body"), [("punycode", b"{}"), ("x" * 900, b"{}"), ("utf-16", b"{}x")])
def test_charsets_that_are_not_read(charset: str, body: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        decoded(body, f"application/json; charset={charset}")


def test_kinds() -> None:
    assert kind_of(None) == kind_of("") == "application/json"
    assert kind_of("Application/JSONLines; x=y") == "application/jsonlines"
    with pytest.raises(UnsupportedMediaType):
        kind_of("a/b;" * 5000)
