"""Prompts as token ids: rendered, tokenised and measured, away from the event loop where that takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from headway.server.api.deps import ServedModel
from headway.server.errors import RequestError

# Tokenising takes about 1 us a token: up to this many characters cost the event loop less than a thread's hand-over twice.
_MAX_INLINE_CHARS = 4000
# A text of more characters per token of context than this is measured by its beginning first.
_LIKELY_CHARS_PER_TOKEN = 16
_SLACK_TOKENS = 16

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """``text`` is None for a prompt that came as token ids."""

    token_ids: list[int]
    text: str | None


async def off_loop(num_chars: int, work: Callable[[], _T]) -> _T:
    """``work``'s result, out of a thread if it has many characters to do."""
    return work() if num_chars <= _MAX_INLINE_CHARS else await asyncio.to_thread(work)


def encode_prompt(model: ServedModel, prompt: str | list[int], *, add_special_tokens: bool, param: str, num_wanted: int) -> EncodedPrompt:
    """CPU work. ``num_wanted`` output tokens at least must fit behind the prompt. Raises RequestError that names ``param``."""
    if isinstance(prompt, str):
        _refuse_hopeless(model, prompt, param)
        encoded = EncodedPrompt(model.tokenizer.encode(prompt, add_special_tokens=add_special_tokens), prompt)
    else:
        encoded = EncodedPrompt(prompt, None)
        vocab_size = model.info.vocab_size
        if prompt and not (min(prompt) >= 0 and max(prompt) < vocab_size):
            wrong = next(token_id for token_id in prompt if not 0 <= token_id < vocab_size)
            raise RequestError(f"{param} holds token id {wrong}; this model's vocabulary goes from 0 to {vocab_size - 1}.", param)
    check_length(model, len(encoded.token_ids), param, num_wanted)
    return encoded


def check_length(model: ServedModel, num_tokens: int, param: str, num_wanted: int) -> None:
    info = model.info
    if num_tokens == 0:
        raise RequestError(f"{param} has no tokens; give at least one.", param)
    if num_tokens + num_wanted > info.max_model_len:
        raise RequestError(
            f"The prompt has {num_tokens} tokens; this model's context of {info.max_model_len} tokens must hold it and the answer. "
            "Shorten the prompt.",
            param,
        )
    if num_tokens > info.num_blocks * info.block_size:
        raise RequestError(
            f"The prompt has {num_tokens} tokens; the KV cache of this server holds {info.num_blocks * info.block_size}. "
            "Shorten the prompt, or give the cache more (--kv-cache-memory-bytes).",
            param,
        )


def count_chars(value: Any) -> int:
    """About how much text is in a JSON value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(count_chars, value.values()))
    if isinstance(value, list):
        return sum(map(count_chars, value))
    return 0


def _refuse_hopeless(model: ServedModel, text: str, param: str) -> None:
    """A text of megabytes would cost seconds of a core; its beginning alone shows that it does not fit."""
    enough = model.info.max_model_len * _LIKELY_CHARS_PER_TOKEN
    if len(text) <= 2 * enough:
        return
    num_tokens = len(model.tokenizer.encode(text[:enough], add_special_tokens=False))
    # The cut may split a few tokens into more; beyond that a beginning has no more tokens than the whole.
    if num_tokens > model.info.max_model_len + _SLACK_TOKENS:
        raise RequestError(
            f"The prompt has {len(text)} characters and more than {num_tokens - _SLACK_TOKENS} tokens; this model's context is "
            f"{model.info.max_model_len} tokens. Shorten the prompt.",
            param,
        )
