"""One choice of an answer: an engine stream, its text so far, and what of it is new."""

from __future__ import annotations

from dataclasses import dataclass, field

from headway.server.api.request_metrics import ChoiceRecorder
from headway.server.api.serving.failures import failure_of
from headway.server.engine.client import DeltaStream
from headway.server.text.detokenizer import IncrementalDetokenizer
from headway.server.text.output import ToolCallPiece
from headway.server.types import FinishReason, KVSource, RequestTimes, TokenDelta, TokenLogprobs


@dataclass(slots=True)
class ChoiceDelta:
    """What is new of one choice. The last one, and only that, has ``finish_reason``; ``logprobs`` is parallel to ``token_ids``.

    In a chat ``text`` is the content only, see text/output.py; ``reasoning`` and ``tool_calls`` are the rest.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None
    prompt_logprobs: list[TokenLogprobs | None] | None
    finish_reason: str | None
    stop_reason: int | str | None
    reasoning: str = ""
    tool_calls: list[ToolCallPiece] = field(default_factory=list)
    kv_source: KVSource | None = None  # where the prompt's KV is kept, with the last piece; or will be, with the first

    @property
    def is_plain(self) -> bool:
        """Whether it brings text and nothing else, as most do."""
        return bool(self.text) and not (self.finish_reason or self.reasoning or self.tool_calls or self.logprobs)

    def extend(self, later: ChoiceDelta) -> None:
        """Appends a later piece of the same choice."""
        self.text += later.text
        self.reasoning += later.reasoning
        self.tool_calls += later.tool_calls
        self.token_ids += later.token_ids
        if later.logprobs is not None:
            self.logprobs = (self.logprobs or []) + later.logprobs
        self.prompt_logprobs = self.prompt_logprobs or later.prompt_logprobs
        self.finish_reason, self.stop_reason = later.finish_reason, later.stop_reason
        self.kv_source = later.kv_source or self.kv_source


@dataclass(slots=True)
class Choice:
    """``index`` counts over all prompts.

    ``shows_stop_token``: the token that ends the answer is part of its text (include_stop_str_in_output).
    """

    index: int
    stream: DeltaStream
    detokenizer: IncrementalDetokenizer
    shows_stop_token: bool
    recorder: ChoiceRecorder | None
    token_ids: list[int] = field(default_factory=list)
    num_cached_tokens: int = 0
    num_fetched_tokens: int = 0  # of the cached ones, from another server
    times: RequestTimes | None = None  # the engine's, as far as it has told them
    end: FinishReason | None = None  # set once it is over, however

    @property
    def has_ended(self) -> bool:
        return self.end is not None

    def feed(self, deltas: list[TokenDelta]) -> ChoiceDelta:
        """Engine deltas, in order, as one piece of the choice. The caller closes ``stream`` once ``has_ended``.

        Raises GenerationFailed, GenerationAborted, RequestError, RequestTimedOut, QueueTimedOut for an end that is no answer.
        """
        new = ChoiceDelta(self.index, "", [], None, None, None, None)
        for delta in deltas:
            if self.has_ended:
                break
            self._feed_one(delta, new)
        self.token_ids += new.token_ids
        if self.recorder is not None:
            self.recorder.on_tokens(len(new.token_ids), self.num_cached_tokens, self.num_fetched_tokens)
        return new

    def _feed_one(self, delta: TokenDelta, new: ChoiceDelta) -> None:
        self.num_cached_tokens = max(self.num_cached_tokens, delta.num_cached_tokens)
        self.num_fetched_tokens = max(self.num_fetched_tokens, delta.num_fetched_tokens)
        new.kv_source = delta.kv_source or new.kv_source
        self.times = delta.times or self.times
        self._check_end(delta)
        token_ids, logprobs = delta.token_ids, delta.logprobs
        stops = delta.finish_reason is FinishReason.STOP
        hides_last = stops and not self.shows_stop_token
        piece = self.detokenizer.push(token_ids[:-1] if hides_last else token_ids)
        new.text += piece.text
        if delta.finish_reason is not None and piece.stopped_by is None:
            new.text += self.detokenizer.finish()
        stopped_by = self.detokenizer.stopped_by
        if stopped_by is not None and piece.stopped_by is not None:
            # Tokens behind the stop string are not part of the answer.
            token_ids = token_ids[: piece.num_tokens_used]
            logprobs = logprobs[: piece.num_tokens_used] if logprobs is not None else None
        new.token_ids = new.token_ids + token_ids
        if logprobs is not None:
            new.logprobs = (new.logprobs or []) + logprobs
        if delta.prompt_logprobs is not None:
            new.prompt_logprobs = delta.prompt_logprobs
        if stopped_by is not None:
            self._end(new, FinishReason.STOP, stopped_by)
        elif delta.finish_reason is not None:
            self._end(new, delta.finish_reason, delta.stop_reason)

    def _check_end(self, delta: TokenDelta) -> None:
        if delta.finish_reason is not None and not delta.finish_reason.is_answer:
            self._record_end(delta.finish_reason)
            raise failure_of(delta)

    def _end(self, new: ChoiceDelta, reason: FinishReason, stop_reason: int | str | None) -> None:
        new.finish_reason, new.stop_reason = reason.value, stop_reason
        if self.recorder is not None:
            # The recorder counts this piece's tokens before the end that they bring.
            self.recorder.on_tokens(len(new.token_ids), self.num_cached_tokens, self.num_fetched_tokens)
        self._record_end(reason)

    def _record_end(self, reason: FinishReason) -> None:
        self.end = reason
        if self.recorder is not None:
            self.recorder.on_end(reason, self.times)
            self.recorder = None

    def abandon(self, reason: FinishReason) -> None:
        """The client has gone, another choice failed, or the time is over: ``reason`` counts if it is still open."""
        if not self.has_ended:
            self._record_end(reason)
