"""Texts, alone or in pairs, as token ids that fit a length, with the special tokens that the model wants around what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from headway.server.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding

Side = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Fitted:
    """``num_first_segment``: how many tokens the tokenizer counts to the first of two texts; None where it makes no difference."""

    token_ids: list[int]
    num_first_segment: int | None = None


def fitted_texts(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int, side: Side, *, add_special_tokens: bool) -> list[Fitted]:
    """``max_tokens``: of each, special tokens included. What is too long loses its tokens on the ``side`` given."""
    room = max_tokens - (tokenizer.backend.num_special_tokens_to_add(is_pair=False) if add_special_tokens else 0)
    found = []
    for encoding in tokenizer.encodings(texts, add_special_tokens=False):
        _cut(encoding, room, side)
        found.append(Fitted(tokenizer.backend.post_process(encoding, None, add_special_tokens).ids))
    return found


def fitted_pairs(
    tokenizer: Tokenizer, firsts: Sequence[str], seconds: Sequence[str], max_tokens: int | None, side: Side, max_second: int | None = None
) -> list[Fitted]:
    """Pairs of texts as one sequence each. ``max_tokens`` None: uncut; else the longer text of a pair loses its tokens first.

    ``max_second``: of the second text alone.
    """
    ours = list(dict.fromkeys(firsts))
    by_text = dict(zip(ours, tokenizer.encodings(ours, add_special_tokens=False), strict=True))
    num_special = tokenizer.backend.num_special_tokens_to_add(is_pair=True)
    found = []
    for text, second in zip(firsts, tokenizer.encodings(seconds, add_special_tokens=False), strict=True):
        first = by_text[text]
        if max_second is not None:
            _cut(second, max_second, "right")
        if max_tokens is not None and len(first) + len(second) > max_tokens - num_special:
            (first,) = tokenizer.encodings([text], add_special_tokens=False)  # one of its own: cutting changes it
            for encoding, length in zip((first, second), _shares(len(first), len(second), max_tokens - num_special), strict=True):
                _cut(encoding, length, side)
        joined = tokenizer.backend.post_process(first, second, True)
        types = joined.type_ids
        found.append(Fitted(joined.ids, types.index(1) if 1 in types else None))
    return found


def _cut(encoding: Encoding, length: int, side: Side) -> None:
    if len(encoding) > length:
        encoding.truncate(max(length, 0), direction=side)


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """How long two texts may be that have ``room`` together: the shorter stays whole while it can."""
    shorter = min(first, second, max(room // 2, room - max(first, second)))
    return (shorter, room - shorter) if first <= second else (room - shorter, shorter)
