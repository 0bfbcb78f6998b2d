"""When a request ends by itself, and which requests could never be served. Pure rules."""

from __future__ import annotations

from dataclasses import dataclass

from headway.server.types import FinishReason, SamplingParams

End = tuple[FinishReason, int | str | None]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a sequence can get in this engine, in tokens."""

    max_model_len: int
    kv_capacity: int  # of the whole KV cache
    max_prefill: int | None  # most tokens computed in one step, when a prefill can't be split

    @property
    def max_len(self) -> int:
        """A sequence ends when it has this many tokens.

        The newest token is not in the cache yet, and a preempted sequence is prefilled anew: so a sequence one token longer than
        cache or prefill allow is the last that exists, and a shorter one can always be brought back.
        """
        own = [self.kv_capacity] if self.max_prefill is None else [self.kv_capacity, self.max_prefill]
        return min(self.max_model_len, min(own) + 1)

    def refusal(self, num_prompt_tokens: int, max_tokens: int) -> str | None:
        """One sentence if such a request could never run, else None."""
        if num_prompt_tokens + min(max_tokens, 1) > self.max_model_len:
            return (
                f"The prompt has {num_prompt_tokens} tokens, and the context length of this server is {self.max_model_len} tokens, "
                "prompt and output together: shorten the prompt."
            )
        if num_prompt_tokens > self.kv_capacity:
            return (
                f"The prompt has {num_prompt_tokens} tokens, but the whole KV cache of this server holds {self.kv_capacity}: "
                "shorten the prompt, or give the cache more memory (--kv-cache-memory-bytes)."
            )
        if self.max_prefill is not None and num_prompt_tokens > self.max_prefill:
            return (
                f"The prompt has {num_prompt_tokens} tokens, but chunked prefill is off and a step takes {self.max_prefill}: "
                "shorten the prompt, raise --max-num-batched-tokens, or leave --enable-chunked-prefill on."
            )
        return None


def finish_of(
    sampling: SamplingParams, token_id: int, *, num_output_tokens: int, num_tokens: int, max_len: int, repeats: bool = False
) -> End | None:
    """(reason, stop reason) if the sequence ends with its newest token ``token_id``, else None. ``repeats``: it goes round in circles.

    Both counts include that token. Tokens that stop do so only once ``min_tokens`` others are there; the sampler bans them before.
    """
    if num_output_tokens > sampling.min_tokens:
        if token_id in sampling.eos_token_ids and not sampling.ignore_eos:
            return FinishReason.STOP, None
        if token_id in sampling.stop_token_ids:
            return FinishReason.STOP, token_id
        if repeats:
            return FinishReason.REPETITION, "repetition_detected"
    if num_output_tokens >= sampling.max_tokens or num_tokens >= max_len:
        return FinishReason.LENGTH, None
    return None
