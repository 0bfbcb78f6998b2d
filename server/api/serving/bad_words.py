"""Words that must not be generated, as the token ids that would write them."""

from __future__ import annotations

from collections.abc import Sequence

from headway.server.errors import RequestError
from headway.server.text.tokenizer import Tokenizer

BadWords = tuple[tuple[int, ...], ...]


def bad_word_ids(tokenizer: Tokenizer, words: Sequence[str]) -> BadWords:
    """Each word as it is written at the beginning and behind a blank: most tokenizers have other tokens there. Raises RequestError."""
    if not words:
        return ()
    spellings = [prefix + word.lstrip() for word in words for prefix in ("", " ")]
    encoded = [tuple(ids) for ids in tokenizer.encode_batch(spellings, add_special_tokens=False)]
    for index, word in enumerate(words):
        if not any(encoded[2 * index : 2 * index + 2]):
            raise RequestError(f"bad_words.{index} ({word!r}) has no tokens; leave it out.", f"bad_words.{index}")
    return tuple(ids for ids in dict.fromkeys(encoded) if ids)
