"""How many of an answer's tokens its first so many characters came from."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from headway.server.text.detokenizer import IncrementalDetokenizer
from headway.server.text.tokenizer import Tokenizer


class TokenCounter:
    """Decodes the tokens a second time, since the text that a parser gets lags behind them. Each token is counted once."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> None:
        # With something before them, tokenizers that write a blank into a word's first token keep that of the answer's first.
        before = tokenizer.encode("a", add_special_tokens=False)
        self._detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip_special_tokens, prompt_tail=before)
        self._num_chars = 0
        self._tokens: deque[tuple[int, int]] = deque()  # those that were not counted yet: where the text begins, id

    def push(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            self._tokens.append((self._num_chars, token_id))
            self._num_chars += len(self._detokenizer.push([token_id]).text)

    def before(self, num_chars: int) -> int:
        """How many tokens, not counted so far, begin in the first ``num_chars`` characters of the answer."""
        count = 0
        while self._tokens and self._tokens[0][0] < num_chars:
            self._tokens.popleft()
            count += 1
        return count

    def rest(self) -> list[int]:
        """The tokens that were not counted so far; they count as counted then."""
        rest = [token_id for _, token_id in self._tokens]
        self._tokens.clear()
        return rest
