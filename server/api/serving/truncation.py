"""Prompts cut to a number of tokens, where a request would rather lose a part of one than be refused."""

from __future__ import annotations

from dataclasses import dataclass

from headway.server.api.deps import ServedModel
from headway.server.api.protocol.base import GenerationFields
from headway.server.api.protocol.pooling import PoolingFields
from headway.server.errors import RequestError
from headway.server.text.fitted import Side

# More characters than this per wanted token are not looked at: tokenising megabytes to throw them away costs seconds of a core.
_MOST_CHARS_PER_TOKEN = 32


@dataclass(frozen=True, slots=True)
class Truncation:
    """``side`` is where tokens are taken away."""

    num_tokens: int
    side: Side

    def of_text(self, text: str) -> str:
        """``text`` without what lies too far away from the end that is kept."""
        most = self.num_tokens * _MOST_CHARS_PER_TOKEN
        if len(text) <= most:
            return text
        return text[-most:] if self.side == "left" else text[:most]

    def of_ids(self, token_ids: list[int], bos_token_id: int | None) -> list[int]:
        """No more than ``num_tokens`` of them. A beginning-of-sequence token stays: models are lost without it."""
        if len(token_ids) <= self.num_tokens:
            return token_ids
        if self.side == "right":
            return token_ids[: self.num_tokens]
        head = token_ids[:1] if token_ids[0] == bos_token_id and self.num_tokens > 1 else []
        return head + token_ids[len(head) - self.num_tokens :]


def truncation_of(request: GenerationFields, model: ServedModel) -> Truncation | None:
    """Raises RequestError for more tokens than the context has."""
    asked, longest = request.truncate_prompt_tokens, model.info.max_model_len
    if asked is None:
        return None
    _check(asked, longest)
    wanted = 1 if request.asked_max_tokens is None else request.asked_max_tokens
    return Truncation(max(longest - wanted, 1) if asked == -1 else asked, request.truncation_side)


def pooling_truncation(request: PoolingFields, model: ServedModel) -> Truncation | None:
    """Raises RequestError for more tokens than the model takes, and for none."""
    asked, longest = request.truncate_prompt_tokens, model.info.max_model_len
    if asked is None:
        return None
    if asked == 0:
        raise RequestError("truncate_prompt_tokens must be at least 1, or -1, got 0.", "truncate_prompt_tokens")
    _check(asked, longest)
    return Truncation(longest if asked == -1 else asked, request.truncation_side)


def _check(asked: int, longest: int) -> None:
    if asked > longest:
        raise RequestError(
            f"truncate_prompt_tokens must not exceed the context length of {longest} tokens, got {asked}.", "truncate_prompt_tokens"
        )
