"""JSON as it is sent: one line for whoever reads it by lines, and UTF-8 in any case."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode
# JSON lets them stand as they are. Python's str.splitlines and what is built on it (httpx's iter_lines) end a line at each of them.
_LINE_ENDS = re.compile(b"\xe2\x80[\xa8\xa9]|\xc2\x85")


def encode(value: Any) -> bytes:
    """Without a raw line end of any kind. Half of a surrogate pair, as a parser of the model's escapes may leave, becomes "?"."""
    try:
        text = _encode(value)
    except UnicodeEncodeError:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    if b"\xe2\x80" in text or b"\xc2\x85" in text:
        return _LINE_ENDS.sub(_escaped, text)
    return text


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0].decode())
