"""Media types: what a body is, how its bytes are read, and which of several answers a client accepts."""

from __future__ import annotations

from collections.abc import Sequence
from email.message import Message
from urllib.request import parse_http_list

from headway.server.api.errors import NotAcceptable, UnsupportedMediaType

JSON = "application/json"
# One meaning, several spellings in use.
JSON_LINES = ("application/jsonlines", "application/x-jsonlines", "application/x-ndjson", "application/jsonl")

# JSON is UTF-8; Java clients write other names of the same, or Latin-1. Not every codec: some take quadratic time.
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "iso-8859-1", "utf-16"})
# The standard library's parser takes quadratic time.
_MAX_LENGTH = 1000


def kind_of(content_type: str | None) -> str:
    """The media type of a body, without parameters. A missing one is JSON: SageMaker leaves it out. Raises UnsupportedMediaType."""
    return _parsed(content_type).get_content_type() if content_type else JSON


def is_json(kind: str) -> bool:
    return kind == JSON or kind.endswith("+json")


def decoded(body: bytes, content_type: str | None) -> bytes:
    """``body`` in UTF-8, without a byte order mark. Raises UnsupportedMediaType."""
    charset = _parsed(content_type).get_content_charset("utf-8") if content_type else "utf-8"
    if charset not in _CHARSETS:
        raise UnsupportedMediaType(f"The body's charset is {charset[:50]!r}; send JSON in UTF-8.")
    if charset in ("iso-8859-1", "utf-16"):
        try:
            body = body.decode(charset).encode()
        except UnicodeDecodeError as error:
            raise UnsupportedMediaType(f"The body is not in the charset {charset} that its Content-Type names.") from error
    return body.removeprefix(b"\xef\xbb\xbf")


def chosen(accept: str | None, offers: Sequence[str]) -> str:
    """The one of ``offers`` that an Accept header likes best; of equals the first. Raises NotAcceptable."""
    if not accept or not accept.strip():
        return offers[0]
    if len(accept) > _MAX_LENGTH:
        raise NotAcceptable(f"The Accept header has {len(accept)} characters; this server reads {_MAX_LENGTH}.")
    ranges = [_range(part) for part in parse_http_list(accept)]
    best = max(offers, key=lambda offer: _weight(offer, ranges))  # max takes the first of equals
    if not _weight(best, ranges):
        raise NotAcceptable(f"The Accept header has {accept[:100]!r}; this request can be answered as {' or '.join(offers)} only.")
    return best


def _range(part: str) -> tuple[str, float]:
    """(media range in lower case, its weight); one that can't be read weighs nothing."""
    parsed = _parsed(part)
    try:
        quality = float(str(parsed.get_param("q", "1")))
    except ValueError:
        return "", 0.0
    return parsed.get_params([("", "")])[0][0].lower(), quality if 0 <= quality <= 1 else 0.0


def _weight(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """By the most specific range that covers ``offer``."""
    for wanted in (offer, offer.partition("/")[0] + "/*", "*/*"):
        weights = [weight for media_range, weight in ranges if media_range == wanted]
        if weights:
            return max(weights)
    return 0.0


def _parsed(header: str) -> Message:
    if len(header) > _MAX_LENGTH:
        raise UnsupportedMediaType(f"The Content-Type header has {len(header)} characters; send `Content-Type: {JSON}`.")
    message = Message()
    message["content-type"] = header
    return message
