"""Metrics of generation requests, recorded as their tokens pass through this process."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Histogram

from headway.server.counts import Count, Counts
from headway.server.types import FinishReason, GenerateRequest, RequestTimes

_LATENCY = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1),
    *(2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
_BETWEEN_TOKENS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
# Up to the longest context of today's models: the model's own is not known yet when the series are made.
_TOKENS = tuple(factor * 10**power for power in range(6) for factor in (1, 2, 5))
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class RequestMetrics:
    """One set of series, bound to the model and the engine."""

    def __init__(self, registry: CollectorRegistry, model_name: str, engine: str, counts: Counts) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            family = Histogram(f"vllm:{name}", text, ["model_name", "engine"], buckets=buckets, registry=registry)
            return family.labels(model_name, engine)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"vllm:{name}", text, ["model_name", "engine"], registry=registry).labels(model_name, engine)

        self._counts = counts  # read by the statistics line; Prometheus' own counters are for writing only
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens processed, cached ones included.")
        self.generation_tokens = counter("generation_tokens", "Tokens generated.")
        success = Counter(
            "vllm:request_success", "Finished requests, by reason.", ["model_name", "engine", "finished_reason"], registry=registry
        )
        self.finished = {reason: success.labels(model_name, engine, reason.value) for reason in FinishReason}
        self.rejections = Counter(
            "vllm:admission_rejections", "Requests refused for a full queue.", ["model_name", "reason"], registry=registry
        ).labels(model_name, "max_num_queued_reqs")
        self.first_token = histogram("time_to_first_token_seconds", "Arrival to first token.", _FIRST_TOKEN)
        self.between_tokens = histogram("inter_token_latency_seconds", "Gap between successive outputs.", _BETWEEN_TOKENS)
        self.per_token = histogram("request_time_per_output_token_seconds", "Decode time a token, by request.", _BETWEEN_TOKENS)
        self.end_to_end = histogram("e2e_request_latency_seconds", "Arrival to finish.", _LATENCY)
        self.queue = histogram("request_queue_time_seconds", "Arrival to scheduled.", _LATENCY)
        self.inference = histogram("request_inference_time_seconds", "Scheduled to last token.", _LATENCY)
        self.prefill = histogram("request_prefill_time_seconds", "Scheduled to first token.", _LATENCY)
        self.decode = histogram("request_decode_time_seconds", "First to last token.", _LATENCY)
        self.request_prompt_tokens = histogram("request_prompt_tokens", "Prompt tokens, by request.", _TOKENS)
        self.request_generation_tokens = histogram("request_generation_tokens", "Generated tokens, by request.", _TOKENS)
        self.max_generation_tokens = histogram(
            "request_max_num_generation_tokens", "Tokens of the longest of a request's answers.", _TOKENS
        )
        self.params_max_tokens = histogram("request_params_max_tokens", "max_tokens, by request.", _TOKENS)
        self.params_n = histogram("request_params_n", "n, by request.", (1, 2, 5, 10, 20))
        self.num_preemptions = histogram("request_num_preemptions", "Preemptions, by request.", (1, 2, 3, 4, 5, 10, 20))
        self.iteration_tokens = histogram("iteration_tokens_total", "Tokens in an engine step.", _STEP_TOKENS)

    def count_prompt(self, num_tokens: int) -> None:
        self._counts.add(Count.PROMPT_TOKENS, num_tokens)
        self.prompt_tokens.inc(num_tokens)

    def count_generated(self, num_tokens: int) -> None:
        self._counts.add(Count.GENERATION_TOKENS, num_tokens)
        self.generation_tokens.inc(num_tokens)


class ChoiceRecorder:
    """One choice's life. ``on_tokens`` for each piece, then ``on_end`` once."""

    __slots__ = ("_first", "_last", "_metrics", "_num_tokens", "_request")

    def __init__(self, metrics: RequestMetrics, request: GenerateRequest) -> None:
        self._metrics = metrics
        self._request = request
        self._first: float | None = None
        self._last = 0.0
        self._num_tokens = 0

    def on_tokens(self, num_tokens: int) -> None:
        if not num_tokens:
            return
        now = time.time()
        if self._first is None:
            self._first = now
            self._metrics.first_token.observe(now - self._request.arrival_time)
            self._metrics.count_prompt(len(self._request.prompt_token_ids))
        else:
            self._metrics.between_tokens.observe(now - self._last)
        self._last = now
        self._num_tokens += num_tokens
        self._metrics.count_generated(num_tokens)

    def on_end(self, reason: FinishReason, times: RequestTimes | None) -> None:
        """``times`` are the engine's own; it gives none for what ended here, by a stop string or a client that left."""
        metrics = self._metrics
        metrics.finished[reason].inc()
        if reason not in (FinishReason.STOP, FinishReason.LENGTH) or self._first is None:
            return
        metrics.end_to_end.observe(time.time() - self._request.arrival_time)
        metrics.request_prompt_tokens.observe(len(self._request.prompt_token_ids))
        metrics.request_generation_tokens.observe(self._num_tokens)
        first, last = self._first, self._last
        if times is not None and times.first_token is not None and times.last_token is not None:
            first, last = times.first_token, times.last_token
        metrics.decode.observe(last - first)
        if self._num_tokens > 1:
            metrics.per_token.observe((last - first) / (self._num_tokens - 1))
        if times is not None and times.scheduled is not None:
            metrics.queue.observe(times.scheduled - times.arrival)
            metrics.prefill.observe(first - times.scheduled)
            metrics.inference.observe(last - times.scheduled)
            metrics.num_preemptions.observe(times.num_preemptions)
