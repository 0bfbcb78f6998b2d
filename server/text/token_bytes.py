"""What bytes one token stands for: tokenizers spell bytes as letters of their own."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import tokenizers

Spelling = Literal["byte_level", "byte_fallback", "other"]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")
_SPACE = "▁"  # sentencepiece writes a blank so


@cache
def byte_letters() -> dict[str, int]:
    """GPT-2's alphabet: the letter that stands for each byte in a byte-level vocabulary.

    Printable Latin-1 characters stand for themselves, the other bytes for U+0100 and up in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def spelling_of(backend: tokenizers.Tokenizer) -> Spelling:
    """How the tokenizer's vocabulary spells bytes, judged by its decoder."""
    decoder = backend.decoder
    if decoder is None:
        return "other"
    state = json.loads(decoder.__getstate__())
    kinds = {step["type"] for step in state.get("decoders", [state])}
    if "ByteLevel" in kinds:
        return "byte_level"
    return "byte_fallback" if kinds & {"ByteFallback", "Metaspace"} else "other"


def spelled_bytes(token: str, spelling: Spelling) -> bytes:
    """The bytes of a token of the vocabulary (not of an added token, which is written as it is)."""
    if spelling == "byte_level":
        letters = byte_letters()
        # Any other character makes the whole token plain text: so does the tokenizer's own decoder.
        return bytes(letters[c] for c in token) if all(c in letters for c in token) else token.encode()
    if spelling == "byte_fallback":
        if match := _BYTE_TOKEN.match(token):
            return bytes([int(match[1], 16)])
        return token.replace(_SPACE, " ").encode()
    return token.encode()
