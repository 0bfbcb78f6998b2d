"""The engine's log-probabilities in OpenAI's two shapes and vLLM's shape for prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headway.server.api.protocol.base import GenerationFields
from headway.server.config.http import HttpConfig
from headway.server.text.tokenizer import Tokenizer
from headway.server.types import TokenLogprobs

# JSON has no -inf; vLLM's stand-in.
_LOWEST = -9999.0


class LogprobFormat:
    """``as_ids``: tokens are written "token_id:7" (return_tokens_as_token_ids)."""

    def __init__(self, tokenizer: Tokenizer, *, as_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    @classmethod
    def of(cls, http: HttpConfig, request: GenerationFields, tokenizer: Tokenizer) -> LogprobFormat:
        asked = request.return_tokens_as_token_ids
        return cls(tokenizer, as_ids=http.return_tokens_as_token_ids if asked is None else asked)

    def token(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self._as_ids else self._tokenizer.token_text(token_id)

    def chat(self, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """``choices[].logprobs`` of a chat answer."""
        content = []
        for at in logprobs:
            entry = self._chat_entry(at.token_id, at.logprob)
            entry["top_logprobs"] = [self._chat_entry(token_id, logprob) for token_id, logprob in at.top]
            content.append(entry)
        return {"content": content, "refusal": None}

    def _chat_entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": self.token(token_id),
            "logprob": max(logprob, _LOWEST),
            "bytes": list(self._tokenizer.token_bytes(token_id)),
        }

    def completion(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None], offset: int) -> dict[str, Any]:
        """``choices[].logprobs`` of a completion; ``offset`` is where the first token's text begins. None: the first prompt token."""
        tokens = [self.token(token_id) for token_id in token_ids]
        offsets = []
        for token_id in token_ids:
            offsets.append(offset)
            offset += len(self._tokenizer.token_text(token_id))
        return {
            "text_offset": offsets,
            "token_logprobs": [None if at is None else max(at.logprob, _LOWEST) for at in logprobs],
            "tokens": tokens,
            "top_logprobs": [None if at is None else self._top(at) for at in logprobs],
        }

    def _top(self, at: TokenLogprobs) -> dict[str, float]:
        """The most likely tokens, and the token itself where it is not among them. Of tokens with one text the likeliest stays."""
        top: dict[str, float] = {}
        for token_id, logprob in [*at.top, (at.token_id, at.logprob)]:
            top.setdefault(self.token(token_id), max(logprob, _LOWEST))
        return top

    def prompt(self, logprobs: Sequence[TokenLogprobs | None]) -> list[dict[str, Any] | None]:
        """``prompt_logprobs``: token id -> logprob, rank, text, for each prompt token but the first."""
        return [None if at is None else self._prompt_entry(at) for at in logprobs]

    def _prompt_entry(self, at: TokenLogprobs) -> dict[str, Any]:
        ranked = [(at.token_id, at.logprob, at.rank), *((token_id, logprob, rank) for rank, (token_id, logprob) in enumerate(at.top, 1))]
        entry: dict[str, Any] = {}
        for token_id, logprob, rank in ranked:
            known = {"logprob": max(logprob, _LOWEST), "rank": rank, "decoded_token": self._tokenizer.token_text(token_id)}
            entry.setdefault(str(token_id), known)
        return entry
