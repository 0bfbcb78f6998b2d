"""From an open Generation to the answer: whole or streamed, in the shape that a family's format gives it. Knows no transport."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Protocol

from headway.server.api.deps import AppState
from headway.server.api.json_text import encode
from headway.server.api.off_loop import off_loop
from headway.server.api.protocol.base import GenerationFields
from headway.server.api.serving.best_of import best_of
from headway.server.api.serving.choices import ChoiceDelta
from headway.server.api.serving.generate import Generation, Usage
from headway.server.api.serving.intervals import Intervals
from headway.server.api.serving.kv_transfer import announcement


class Answer(Protocol):
    """The answer to one request. Whoever has it takes ``chunks`` if it is a stream, else ``whole``, once; and ``aclose`` in any case."""

    @property
    def is_stream(self) -> bool: ...

    async def whole(self) -> bytes:
        """JSON. Raises GenerationFailed, EngineDead, ServerDraining, as ``chunks`` does."""
        ...

    def chunks(self) -> AsyncGenerator[list[bytes], None]:
        """JSON chunks, as soon as there are some."""
        ...

    async def aclose(self) -> None:
        """Ends work that is under way; safe to repeat."""
        ...


class AnswerFormat(Protocol):
    """How one family writes answers."""

    def chunks(self, delta: ChoiceDelta, usage: Usage | None) -> list[bytes]:
        """Chunks for a piece of a choice; none where there is nothing to tell."""
        ...

    def usage_chunk(self, usage: Usage, metrics: dict[str, Any] | None) -> bytes: ...

    def body(self, choices: list[ChoiceDelta], usage: Usage) -> dict[str, Any]:
        """The whole answer, of whole choices in order."""
        ...


_BYTES_PER_SCORED_TOKEN = 20


class GeneratedAnswer:
    """See Answer. Closes ``generation``. ``parse`` changes each piece, in order, before ``form`` sees it."""

    def __init__(
        self,
        state: AppState,
        request: GenerationFields,
        generation: Generation,
        form: AnswerFormat,
        parse: Callable[[ChoiceDelta], None] | None = None,
    ) -> None:
        http = state.config.http
        self._forces_usage = http.enable_force_include_usage
        self._tells_metrics = http.enable_per_request_metrics
        self._intervals = Intervals(max(http.stream_interval, request.stream_interval or 1))
        self._request = request
        self._generation = generation
        self._form = form
        self._parse = parse

    @property
    def is_stream(self) -> bool:
        return self._request.streams

    async def whole(self) -> bytes:
        whole: dict[int, ChoiceDelta] = {}
        async with aclosing(self._generation.batches()) as batches:
            async for batch in batches:
                for delta in self._parsed(batch):
                    if (so_far := whole.get(delta.index)) is None:
                        whole[delta.index] = delta
                    else:
                        so_far.extend(delta)
        choices = best_of([whole[index] for index in sorted(whole)], self._request.num_drawn, self._request.n)
        # As much as a prompt of so many bytes takes: 20 logprobs of each of 30,000 tokens kept /ping waiting for seconds.
        num_scored = sum(len(choice.prompt_logprobs or ()) + len(choice.logprobs or ()) for choice in choices)
        return await off_loop(num_scored * _BYTES_PER_SCORED_TOKEN, lambda: self._written(choices))

    def _written(self, choices: list[ChoiceDelta]) -> bytes:
        body = self._form.body(choices, self._generation.usage())
        if self._tells_metrics:
            body["metrics"] = self._generation.timing()
        return encode(body)

    async def chunks(self) -> AsyncGenerator[list[bytes], None]:
        options = self._request.stream_options
        has_usage = self._forces_usage or (options is not None and options.include_usage)
        is_continuous = self._forces_usage or (options is not None and options.include_usage and options.continuous_usage_stats)
        async with aclosing(self._generation.batches()) as batches:
            async for batch in batches:
                if (source := batch[0].kv_source) is not None and batch[0].finish_reason is None:
                    yield [announcement(source)]
                due = self._intervals.due(self._parsed(batch))
                usage = self._generation.usage() if is_continuous else None
                if chunks := [chunk for delta in due for chunk in self._form.chunks(delta, usage)]:
                    yield chunks
        if has_usage:
            yield [self._form.usage_chunk(self._generation.usage(), self._generation.timing())]

    def _parsed(self, batch: list[ChoiceDelta]) -> list[ChoiceDelta]:
        if self._parse is not None:
            for delta in batch:
                self._parse(delta)
        return batch

    async def aclose(self) -> None:
        await self._generation.aclose()


class FinishedAnswer:
    """See Answer: one that is there already."""

    is_stream = False

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = encode(body)

    async def whole(self) -> bytes:
        return self._body

    def chunks(self) -> AsyncGenerator[list[bytes], None]:
        raise AssertionError("a finished answer is no stream")

    async def aclose(self) -> None:
        pass
