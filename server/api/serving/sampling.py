"""From a request's fields, the model's defaults and what fits to the engine's SamplingParams."""

from __future__ import annotations

from typing import TypeVar

from headway.server.api.deps import ServedModel
from headway.server.api.protocol.base import GenerationFields
from headway.server.errors import RequestError
from headway.server.types import Grammar, SamplingParams

# Between greedy and this, logits divided by the temperature overflow (vLLM raises it likewise).
_LOWEST_TEMPERATURE = 0.01
_GREEDY = 1e-5

_Number = TypeVar("_Number", int, float)


def sampling_params(
    request: GenerationFields, model: ServedModel, num_prompt_tokens: int, max_logprobs: int, grammar: Grammar | None = None
) -> SamplingParams:
    """For choice 0; see ``for_choice``. ``num_prompt_tokens`` fits the context. Raises RequestError."""
    defaults = model.defaults
    _check_ids(request, model.info.vocab_size)
    _check_logprobs(request, max_logprobs, model.info.vocab_size)
    max_tokens = _max_tokens(request, model, num_prompt_tokens)
    if request.min_tokens > max_tokens:
        raise RequestError(
            f"min_tokens ({request.min_tokens}) exceeds the {max_tokens} tokens that fit behind a prompt of {num_prompt_tokens}.",
            "min_tokens",
        )
    eos = () if request.ignore_eos else tuple(dict.fromkeys((*model.tokenizer.eos_token_ids, *defaults.eos_token_ids)))
    return SamplingParams(
        max_tokens=max_tokens,  # 0: only the prompt is wanted
        min_tokens=request.min_tokens,
        temperature=_temperature(request.temperature, defaults.temperature),
        top_p=_first(request.top_p, defaults.top_p, 1.0),
        top_k=max(_first(request.top_k, defaults.top_k, 0), 0),
        min_p=_first(request.min_p, defaults.min_p, 0.0),
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=_first(request.repetition_penalty, defaults.repetition_penalty, 1.0),
        logit_bias=request.logit_bias,
        seed=None if request.seed == -1 else request.seed,
        eos_token_ids=eos,
        stop_token_ids=tuple(request.stop_token_ids),
        ignore_eos=request.ignore_eos,
        logprobs=request.wanted_logprobs,
        prompt_logprobs=_prompt_logprobs(request),
        grammar=grammar,
    )


def seed_of_choice(seed: int | None, index: int) -> int | None:
    """Choice i draws with seed + i, so that choices differ and repeat; wraps in 64 bits."""
    return None if seed is None else (seed + index + 2**63) % 2**64 - 2**63


def _temperature(asked: float | None, default: float | None) -> float:
    value = _first(asked, default, 1.0)
    return max(value, _LOWEST_TEMPERATURE) if value >= _GREEDY else value


def _max_tokens(request: GenerationFields, model: ServedModel, num_prompt_tokens: int) -> int:
    room = model.info.max_model_len - num_prompt_tokens
    limits = [room, request.asked_max_tokens, model.defaults.max_tokens]
    return min(limit for limit in limits if limit is not None)


def _prompt_logprobs(request: GenerationFields) -> int | None:
    """Echoed prompts show logprobs like the answer's, in completions."""
    if request.prompt_logprobs is not None:
        return request.prompt_logprobs
    echoed = request.echo and "prompt" in type(request).model_fields
    return request.wanted_logprobs if echoed else None


def _check_ids(request: GenerationFields, vocab_size: int) -> None:
    for name, ids in (("logit_bias", request.logit_bias), ("stop_token_ids", request.stop_token_ids)):
        wrong = next((token_id for token_id in ids if not 0 <= token_id < vocab_size), None)
        if wrong is not None:
            raise RequestError(f"{name} holds token id {wrong}; this model's vocabulary goes from 0 to {vocab_size - 1}.", name)


def _check_logprobs(request: GenerationFields, max_logprobs: int, vocab_size: int) -> None:
    if max_logprobs == -1:
        max_logprobs = vocab_size
    is_chat = "top_logprobs" in type(request).model_fields
    for name, asked in (("top_logprobs" if is_chat else "logprobs", request.wanted_logprobs), ("prompt_logprobs", request.prompt_logprobs)):
        wanted = vocab_size if asked == -1 else asked
        if wanted is not None and wanted > max_logprobs:
            raise RequestError(f"{name} must be at most {max_logprobs} (--max-logprobs), got {asked}.", name)


def _first(*values: _Number | None) -> _Number:
    return next(value for value in values if value is not None)
