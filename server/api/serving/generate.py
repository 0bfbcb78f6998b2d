"""All choices of one API request: admits them to the engine together, merges their streams, counts usage."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from headway.server.api.adapters import Adapter
from headway.server.api.deps import AppState, ServedModel
from headway.server.api.errors import GenerationFailed
from headway.server.api.protocol.base import GenerationFields
from headway.server.api.serving.choices import Choice, ChoiceDelta
from headway.server.api.serving.merge import merged
from headway.server.api.serving.prompts import EncodedPrompt
from headway.server.api.serving.sampling import sampling_params, seed_of_choice
from headway.server.counts import Count
from headway.server.errors import EngineDead, QueueFull
from headway.server.text.detokenizer import IncrementalDetokenizer
from headway.server.types import GenerateRequest, TokenDelta

# The detokenizer wants some context before the answer; a character has four bytes at most.
_TAIL_TOKENS = 6


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None  # None: not told (--no-enable-prompt-tokens-details)

    def as_dict(self) -> dict[str, Any]:
        usage: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
        }
        if self.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        return usage


class Generation:
    """The open choices of one request, from admission to the end. Iterate over ``batches`` once; ``aclose`` in any case.

    Choices of prompt p are p * n to p * n + n - 1. Closing before the end aborts what is open in the engine.
    """

    def __init__(self, state: AppState, request: GenerationFields, prompts: Sequence[EncodedPrompt]) -> None:
        self._state = state
        self._adapter: Adapter | None = None  # held until the end
        self._prompts = prompts
        self._shows_prompt_only = request.asked_max_tokens == 0
        self._n = request.n
        self.choices: list[Choice] = []
        state.counts.add(Count.HTTP_GENERATIONS, 1)
        self._is_open = True
        self._is_admitted = False

    @classmethod
    async def open(
        cls,
        state: AppState,
        model: ServedModel,
        request: GenerationFields,
        prompts: Sequence[EncodedPrompt],
        public_id: str,
        arrival: float,
        adapter: Adapter | None,
    ) -> Generation:
        """Admits every choice, or none. Raises RequestError, QueueFull, AdaptersFull, EngineNotReady, EngineDead."""
        max_logprobs = state.config.model.max_logprobs
        samplings = [sampling_params(request, model, len(prompt.token_ids), max_logprobs) for prompt in prompts]
        generation = cls(state, request, prompts)
        try:
            if adapter is not None:
                adapter = generation._adapter = await state.adapters.acquire(adapter)
            for prompt_index, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
                for k in range(request.n):
                    seeded = msgspec.structs.replace(sampling, seed=seed_of_choice(sampling.seed, k)) if k else sampling
                    engine_request = GenerateRequest(
                        request_id=f"{public_id}-{next(state.sequence_numbers)}",
                        prompt_token_ids=prompt.token_ids,
                        sampling=seeded,
                        arrival_time=arrival,
                        priority=request.priority,
                        cache_salt=request.cache_salt,
                        adapter_id=adapter.ref.id if adapter is not None else None,
                    )
                    generation._admit(model, request, engine_request, prompt_index)
        except BaseException as error:  # a cancellation too: nothing may stay open
            if isinstance(error, QueueFull):
                state.metrics.count_rejection()
            await generation.aclose()
            raise
        state.metrics.on_request(request.n, samplings)
        generation._is_admitted = True
        return generation

    def _admit(self, model: ServedModel, request: GenerationFields, engine_request: GenerateRequest, prompt_index: int) -> None:
        detokenizer = IncrementalDetokenizer(
            model.tokenizer,
            skip_special_tokens=request.skip_special_tokens,
            stop=request.stop_strings,
            include_stop=request.include_stop_str_in_output,
            min_tokens=request.min_tokens,
            prompt_tail=engine_request.prompt_token_ids[-_TAIL_TOKENS:],
        )
        stream = self._state.engine.generate(engine_request)
        recorder = self._state.metrics.new_choice(engine_request)
        index = len(self.choices)
        self.choices.append(Choice(index, prompt_index, stream, detokenizer, request.include_stop_str_in_output, recorder))

    async def batches(self) -> AsyncGenerator[list[ChoiceDelta], None]:
        """What is new, as soon as something is: at most one delta a choice each time, until every choice has ended.

        Whatever waits when the reader comes back is merged, so a slow reader gets larger pieces instead of more.
        Raises GenerationFailed, EngineDead, ServerDraining.
        """
        num_open = len(self.choices)
        async with aclosing(merged([choice.stream for choice in self.choices])) as arrivals:
            async for arrived in arrivals:
                news = []
                for index, deltas in arrived:
                    choice = self.choices[index]
                    if choice.has_ended:
                        continue  # behind a stop string
                    news.append(self._feed(choice, deltas))
                    if news[-1].finish_reason is not None:
                        num_open -= 1
                        await choice.stream.aclose()
                if news:
                    yield news
                if not num_open:
                    return

    def _feed(self, choice: Choice, deltas: list[TokenDelta]) -> ChoiceDelta:
        try:
            new = choice.feed(deltas)
        except GenerationFailed as error:
            if (cause := self._state.engine.dead_cause) is not None:
                raise EngineDead(cause) from error
            raise
        if self._shows_prompt_only:
            new.text, new.token_ids, new.logprobs = "", [], None
            new.finish_reason, new.stop_reason = new.finish_reason and "length", None
            choice.token_ids.clear()
        return new

    def usage(self) -> Usage:
        """So far."""
        cached = None
        if self._state.config.http.enable_prompt_tokens_details:
            cached = sum(choice.num_cached_tokens for choice in self.choices[:: self._n])
        return Usage(
            prompt_tokens=sum(len(prompt.token_ids) for prompt in self._prompts),
            completion_tokens=sum(len(choice.token_ids) for choice in self.choices),
            cached_tokens=cached,
        )

    async def aclose(self) -> None:
        """Ends whatever is open; safe to repeat."""
        if not self._is_open:
            return
        self._is_open = False
        self._state.counts.add(Count.HTTP_GENERATIONS, -1)
        if self._is_admitted:
            self._state.metrics.on_request_end(max(len(choice.token_ids) for choice in self.choices))
        try:
            for choice in self.choices:
                choice.abandon()
                await choice.stream.aclose()
        finally:
            if self._adapter is not None:
                self._state.adapters.release(self._adapter)
