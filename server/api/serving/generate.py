"""All choices of one API request: admits them to the engine together, merges their streams, counts usage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from headway.server.api.adapters import Adapter
from headway.server.api.deadline import Deadline
from headway.server.api.deps import AppState, ServedModel
from headway.server.api.protocol.base import GenerationFields
from headway.server.api.serving.beam import beam_streams
from headway.server.api.serving.call import Call
from headway.server.api.serving.causes import explained
from headway.server.api.serving.choices import Choice, ChoiceDelta
from headway.server.api.serving.kv_transfer import transfer_of
from headway.server.api.serving.merge import merged
from headway.server.api.serving.prompts import EncodedPrompt
from headway.server.api.serving.request_log import RequestLog
from headway.server.api.serving.sampling import check_size, fitted, sampling_params, seed_of_choice
from headway.server.api.serving.timing import Timing
from headway.server.engine.client import DeltaStream
from headway.server.errors import HeadwayError, QueueFull, QueueTimedOut, RequestError
from headway.server.text.detokenizer import IncrementalDetokenizer
from headway.server.types import FinishReason, GenerateRequest, Grammar, KVTransfer, SamplingParams, ThinkingBudget, TokenDelta

# The detokenizer wants some context before the answer; a character has four bytes at most.
_TAIL_TOKENS = 6


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None  # None: not told (--no-enable-prompt-tokens-details)
    reasoning_tokens: int | None = None  # None: nobody tells the reasoning apart

    def as_dict(self) -> dict[str, Any]:
        usage: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
        }
        if self.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        if self.reasoning_tokens is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return usage


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be generated. ``adapter``: whose model answers. ``grammar`` is one that checked_grammar gave.

    ``keeps_special_tokens``: in the text, whatever the request says.
    """

    request: GenerationFields
    prompts: Sequence[EncodedPrompt]
    public_id: str
    adapter: Adapter | None
    grammar: Grammar | None = None
    thinking: ThinkingBudget | None = None
    keeps_special_tokens: bool = False

    @property
    def skips_special_tokens(self) -> bool:
        return self.request.skip_special_tokens and not self.keeps_special_tokens


class Generation:
    """The open choices of one request, from admission to the end. Iterate over ``batches`` once; ``aclose`` in any case.

    Choices of prompt p are p * k to p * k + k - 1, with k = ``request.num_drawn``. Closing before the end aborts what is open in the
    engine.
    """

    def __init__(self, state: AppState, asked: Asked, call: Call) -> None:
        self._state = state
        self._asked = asked
        self._timing = Timing(call.deadline.arrival) if state.config.http.enable_per_request_metrics else None
        self._adapter: Adapter | None = None  # held until the end
        self._prompts = asked.prompts
        self._span = call.span
        self._request = asked.request
        self._shows_prompt_only = asked.request.asked_max_tokens == 0
        self._record = call.record
        self._log: RequestLog | None = None
        self.choices: list[Choice] = []
        self.num_reasoning_tokens: int | None = None  # of all choices; counted by whoever tells them apart
        self._is_open = True
        self._is_admitted = False
        self._timer: asyncio.TimerHandle | None = None
        self._unfinished = FinishReason.ABORT  # what becomes of choices that are still open at the end

    @classmethod
    async def open(cls, state: AppState, model: ServedModel, call: Call, asked: Asked) -> Generation:
        """Admits every choice, or none.

        Raises RequestError, QueueFull, RequestTimedOut, AdaptersFull, EngineNotReady, EngineAsleep, EngineDead.
        """
        request, adapter = asked.request, asked.adapter
        if asked.grammar is not None and request.use_beam_search:
            raise RequestError("Beam search does not go with structured outputs or forced calls: leave out one of them.", "use_beam_search")
        sampling = sampling_params(request, model, state.config.model.max_logprobs)
        sampling = msgspec.structs.replace(sampling, grammar=asked.grammar, thinking=asked.thinking)
        transfer = transfer_of(request, state.config.kv_transfer, len(asked.prompts))
        check_size(sampling, len(asked.prompts) * request.num_drawn)
        samplings = [fitted(sampling, model, len(prompt.token_ids)) for prompt in asked.prompts]
        deadline = call.deadline.within(request.timeout, "the field timeout")
        generation = cls(state, asked, call)
        if call.span is not None:
            call.span.describe(request, state.name_of(adapter), asked.public_id)
        try:
            if adapter is not None:
                adapter = generation._adapter = state.adapters.acquire(adapter)
            deadline.check()
            generation._admit(model, samplings, deadline, transfer)
        except BaseException as error:  # a cancellation too: nothing may stay open
            if isinstance(error, QueueFull):
                state.metrics.count_rejection(error.reason)
            await generation.aclose()
            raise
        state.metrics.on_request(request.n, samplings, generation.engine_index)
        generation._is_admitted = True
        if state.config.logs.enable_log_requests:
            generation._log = RequestLog(state.config.logs, asked.public_id, call.record.request_id, state.name_of(adapter))
            generation._log.on_admitted(asked.prompts, samplings[0], request.n)
        return generation

    def _admit(self, model: ServedModel, samplings: Sequence[SamplingParams], deadline: Deadline, transfer: KVTransfer | None) -> None:
        requests = [
            self._engine_request(prompt, msgspec.structs.replace(sampling, seed=seed_of_choice(sampling.seed, k)), deadline)
            for prompt, sampling in zip(self._prompts, samplings, strict=True)
            for k in range(self._request.num_drawn)
        ]
        if transfer is not None:  # a prompt's KV is kept, or fetched, once: its other choices compute it or find it in the cache
            requests[0] = msgspec.structs.replace(requests[0], kv_transfer=transfer)
        detokenizers = [self._detokenizer(model, engine_request) for engine_request in requests]
        streams = self._streams(requests)
        shows_stop_token = self._request.include_stop_str_in_output
        for index, (engine_request, detokenizer, stream) in enumerate(zip(requests, detokenizers, streams, strict=True)):
            recorder = self._state.metrics.new_choice(engine_request, stream.engine_index)
            self.choices.append(Choice(index, stream, detokenizer, shows_stop_token, recorder))
        if deadline.at is not None:
            self._timer = asyncio.get_running_loop().call_at(deadline.at, self._time_out, deadline.message)

    def _streams(self, requests: list[GenerateRequest]) -> Sequence[DeltaStream]:
        if not self._request.use_beam_search:
            return self._state.engine.generate(requests)
        width, penalty = self._request.n, self._request.length_penalty
        return beam_streams(self._state.engine, requests[::width], width, penalty, self._state.drain.holding)

    def _engine_request(self, prompt: EncodedPrompt, sampling: SamplingParams, deadline: Deadline) -> GenerateRequest:
        return GenerateRequest(
            request_id=f"{self._asked.public_id}-{next(self._state.sequence_numbers)}",
            prompt_token_ids=prompt.token_ids,
            sampling=sampling,
            arrival_time=deadline.arrival,
            priority=self._request.priority,
            cache_salt=self._request.cache_salt,
            adapter_id=self._adapter.ref.id if self._adapter is not None else None,
            queue_timeout_s=self._state.config.overload.queue_timeout,
        )

    def _detokenizer(self, model: ServedModel, engine_request: GenerateRequest) -> IncrementalDetokenizer:
        request = self._request
        return IncrementalDetokenizer(
            model.tokenizer,
            skip_special_tokens=self._asked.skips_special_tokens,
            spaces_between_special_tokens=request.spaces_between_special_tokens,
            stop=request.stop_strings,
            include_stop=request.include_stop_str_in_output,
            min_tokens=request.min_tokens,
            prompt_tail=engine_request.prompt_token_ids[-_TAIL_TOKENS:],
        )

    def _time_out(self, message: str) -> None:
        """Ends what is open in the engine, whether or not anybody reads; the reader hears of it behind what has arrived."""
        self._unfinished = FinishReason.TIMEOUT
        for choice in self.choices:
            choice.stream.time_out(message)

    async def batches(self) -> AsyncGenerator[list[ChoiceDelta], None]:
        """What is new, as soon as something is: at most one delta a choice each time, until every choice has ended.

        Whatever waits when the reader comes back is merged, so a slow reader gets larger pieces instead of more.
        Raises GenerationFailed, AbortedBySleep, EngineAsleep, EngineDead, ServerDraining, RequestTimedOut, QueueTimedOut,
        RequestError for what only shows on the way; QueueFull: a beam search found no room for its next step.
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
        except HeadwayError as failure:
            if isinstance(failure, QueueTimedOut):
                self._unfinished = FinishReason.QUEUE_TIMEOUT
            told = explained(self._state, failure)
            try:
                raise told from (None if told is failure else failure)
            finally:
                del told  # see failure_of
        if self._shows_prompt_only:
            new.text, new.token_ids, new.logprobs = "", [], None
            new.finish_reason, new.stop_reason = new.finish_reason and "length", None
            choice.token_ids.clear()
        if self._timing is not None:
            self._timing.on_tokens(len(new.token_ids))
            self._timing.on_times(choice.times)
        if self._log is not None:
            self._log.on_delta(new)
        return new

    @property
    def engine_index(self) -> int:
        """Of the request, which metrics count once: where its first choice is."""
        return self.choices[0].stream.engine_index

    def timing(self) -> dict[str, Any] | None:
        """The `metrics` of an answer; None where they are not asked for, or several choices share the request's time."""
        return self._timing.as_dict() if self._timing is not None and len(self.choices) == 1 else None

    def usage(self) -> Usage:
        """So far."""
        cached = None
        if self._state.config.http.enable_prompt_tokens_details:
            cached = self._num_cached_tokens()
        return Usage(
            prompt_tokens=sum(len(prompt.token_ids) for prompt in self._prompts),
            completion_tokens=sum(len(choice.token_ids) for choice in self.choices),
            cached_tokens=cached,
            reasoning_tokens=self.num_reasoning_tokens,
        )

    def _num_cached_tokens(self) -> int:
        """Once for each prompt."""
        return sum(choice.num_cached_tokens for choice in self.choices[:: self._request.num_drawn])

    def _tell_end(self) -> None:
        num_input_tokens = sum(len(prompt.token_ids) for prompt in self._prompts)
        if self._span is not None and self.choices:
            self._span.finish(self.choices, num_input_tokens, self._num_cached_tokens())
        if self._is_admitted:
            lengths = [len(choice.token_ids) for choice in self.choices]
            reasons = [str(choice.end) for choice in self.choices]
            self._state.metrics.on_request_end(max(lengths), self.engine_index)
            self._record.add(num_input_tokens, self._num_cached_tokens(), sum(lengths), set(reasons))
            if self._log is not None:
                self._log.on_end(lengths, reasons)

    async def aclose(self) -> None:
        """Ends whatever is open; safe to repeat."""
        if not self._is_open:
            return
        self._is_open = False
        if self._timer is not None:
            self._timer.cancel()
        for choice in self.choices:
            choice.abandon(self._unfinished)
        self._tell_end()
        try:
            for choice in self.choices:
                await choice.stream.aclose()
        finally:
            if self._adapter is not None:
                self._state.adapters.release(self._adapter)
