"""A model's tokens as the grammar library wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import llguidance

    from headway.server.text.tokenizer import Tokenizer


class _Tokens:
    """What llguidance.LLTokenizer reads of a tokenizer: these names are its own."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = vocab_size
        self.tokens = [*(tokenizer.token_bytes(token_id) for token_id in range(vocab_size)), b"<end>"]
        self.special_token_ids = [*sorted(token_id for token_id in tokenizer.special_ids if token_id < vocab_size), vocab_size]

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "ignore")
        return self._tokenizer.encode(text, add_special_tokens=False)


def library_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> llguidance.LLTokenizer:
    """``vocab_size`` is the model's: ids that the tokenizer lacks are never allowed.

    One token more, ``vocab_size``, is the end: grammars allow it where they are complete. Which real tokens that means is each
    request's affair, and a model may have none. 0.15 s and 5 MB for 49k tokens (2026-11-25).
    """
    import llguidance

    return llguidance.LLTokenizer(_Tokens(tokenizer, vocab_size))  # type: ignore[arg-type]  # any object with these names will do
