"""A model's tokens as the grammar library wants them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import llguidance

    from headway.server.text.tokenizer import Tokenizer


class Vocabulary(msgspec.Struct, frozen=True):
    """The bytes of each token, the end as the last one, and which of them are special."""

    tokens: list[bytes]
    special_token_ids: list[int]


class _Tokens:
    """What llguidance.LLTokenizer reads of a tokenizer: these names are its own."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, encode: Callable[[str], list[int]]) -> None:
        self.eos_token_id = len(vocabulary.tokens) - 1
        self.tokens = vocabulary.tokens
        self.special_token_ids = vocabulary.special_token_ids
        self._encode = encode

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text.decode("utf-8", "ignore") if isinstance(text, bytes) else text)


def vocabulary_of(tokenizer: Tokenizer, vocab_size: int) -> Vocabulary:
    """``vocab_size`` is the model's: ids that the tokenizer lacks are never allowed.

    One token more, ``vocab_size``, is the end: grammars allow it where they are complete. Which real tokens that means is each
    request's affair, and a model may have none.
    """
    special = sorted(token_id for token_id in tokenizer.special_ids if token_id < vocab_size)
    return Vocabulary([*map(tokenizer.token_bytes, range(vocab_size)), b"<end>"], [*special, vocab_size])


def library_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> llguidance.LLTokenizer:
    """0.15 s and 5 MB for 49k tokens (2026-11-25)."""
    return _made(_Tokens(vocabulary_of(tokenizer, vocab_size), lambda text: tokenizer.encode(text, add_special_tokens=False)))


def tokenizer_of(vocabulary: Vocabulary) -> llguidance.LLTokenizer:
    """One that knows the tokens, but not how texts are split, and takes the longest first: enough to see what may follow."""
    # The library's own: one in Python takes 0.2 s for a text of 10,000 characters, at every step into it (2026-11-25).
    tokenizer: llguidance.LLTokenizer = _made(_Tokens(vocabulary, lambda text: tokenizer.greedy_tokenize(text)))
    return tokenizer


def _made(tokens: _Tokens) -> llguidance.LLTokenizer:
    import llguidance

    return llguidance.LLTokenizer(tokens)  # type: ignore[arg-type]  # any object with these names will do
