"""What the tokens of a step become: kept up to the request's end, and told in a delta."""

from __future__ import annotations

import msgspec

from headway.server.engine.batch import RowResult
from headway.server.engine.finish import End, finish_of
from headway.server.engine.request import Request
from headway.server.types import FinishReason, TokenDelta


def keep_tokens(request: Request, token_ids: list[int], max_len: int) -> tuple[int, End | None]:
    """Appends them. Returns (number of tokens kept, reason to end if there is one); tokens after the end are dropped."""
    if request.sampling.max_tokens < 1:  # only the prompt was of interest
        return 0, (FinishReason.LENGTH, None)
    for kept, token_id in enumerate(token_ids, start=1):
        request.token_ids.append(token_id)
        end = finish_of(
            request.sampling,
            token_id,
            num_output_tokens=request.num_output_tokens,
            num_tokens=request.num_tokens,
            max_len=max_len,
            repeats=request.repetition is not None and request.repetition.push(token_id),
        )
        if end is not None:
            return kept, end
    return len(token_ids), None


def delta_of(request: Request, row: RowResult, kept: int, now: float) -> TokenDelta:
    """Of a row whose first ``kept`` tokens were kept at the time ``now``. The first delta of a request says what is told once."""
    if kept:
        request.last_token_time = now
        request.first_token_time = now if request.first_token_time is None else request.first_token_time
    delta = TokenDelta(request.request_id, row.token_ids[:kept])
    if request.sampling.logprobs is not None and row.logprobs is not None:
        delta.logprobs = row.logprobs[:kept]
    if not request.has_answered:
        delta.num_cached_tokens, delta.num_fetched_tokens = request.num_cached_tokens, request.num_fetched_tokens
        delta.times = msgspec.structs.replace(request.times, last_token=None)
        if request.wants_prompt_logprobs:
            delta.prompt_logprobs, request.prompt_logprobs = request.prompt_logprobs, []
        request.has_answered = True
    return delta
