"""Metrics of requests to the engine, recorded as what they get passes through this process."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prometheus_client import Counter

from headway.server.api.series import Series
from headway.server.api.throughput import Throughput
from headway.server.config.buckets import REQUEST_TOKENS, bounds_of
from headway.server.config.observability import ObservabilityConfig
from headway.server.errors import QUEUE_LIMITS, QueueLimit
from headway.server.types import FinishReason, GenerateRequest, PoolRequest, RequestTimes, SamplingParams

_COMPUTED, _CACHED, _FETCHED = "local_compute", "local_cache_hit", "external_kv_transfer"
_FINISH_REASONS = tuple(reason.value for reason in FinishReason)


class RequestMetrics:
    """One set of series, bound to the model and an engine. Made when the engines are ready: ``max_model_len`` is known then."""

    def __init__(self, series: Series, observability: ObservabilityConfig, max_model_len: int, throughput: Throughput) -> None:
        self._throughput = throughput
        self._count_tokens(series)
        self._time_requests(series, observability)
        self._size_requests(series, observability, max_model_len)
        self._finished = series.counters("request_success", "Finished requests, by reason.", "finished_reason", _FINISH_REASONS)

    def _count_tokens(self, series: Series) -> None:
        self._prompt_tokens = series.counter("prompt_tokens", "Prompt tokens processed, cached ones included.")
        self._by_source = series.counters(
            "prompt_tokens_by_source", "Prompt tokens, by where they came from.", "source", (_COMPUTED, _CACHED, _FETCHED)
        )
        self._cached_tokens = series.counter("prompt_tokens_cached", "Prompt tokens taken from a cache.")
        self._generated_tokens = series.counter("generation_tokens", "Tokens generated.")

    def _time_requests(self, series: Series, observability: ObservabilityConfig) -> None:
        custom = observability.custom_histogram_buckets
        between = bounds_of("inter_token_latency", custom)
        latency = bounds_of("request_latency", custom)
        self.first_token = series.histogram(
            "time_to_first_token_seconds", "Arrival to first token.", bounds_of("time_to_first_token", custom)
        )
        self.between_tokens = [series.histogram("inter_token_latency_seconds", "Gap between successive outputs.", between)]
        if observability.enable_old_metric_names:
            old = series.histogram("time_per_output_token_seconds", "Old name of inter_token_latency_seconds.", between)
            self.between_tokens.append(old)
        self.per_token = series.histogram("request_time_per_output_token_seconds", "Decode time a token, by request.", between)
        self.end_to_end = series.histogram("e2e_request_latency_seconds", "Arrival to finish.", latency)
        self.queue = series.histogram("request_queue_time_seconds", "Arrival to scheduled.", latency)
        self.inference = series.histogram("request_inference_time_seconds", "Scheduled to last token.", latency)
        self.prefill = series.histogram("request_prefill_time_seconds", "Scheduled to first token.", latency)
        self.decode = series.histogram("request_decode_time_seconds", "First to last token.", latency)

    def _size_requests(self, series: Series, observability: ObservabilityConfig, max_model_len: int) -> None:
        custom = observability.custom_histogram_buckets
        tokens = bounds_of(REQUEST_TOKENS, custom, max_model_len)
        self.request_prompt_tokens = series.histogram("request_prompt_tokens", "Prompt tokens, by request.", tokens)
        self.computed_tokens = series.histogram("request_prefill_kv_computed_tokens", "Prompt tokens not cached, by request.", tokens)
        self.request_generation_tokens = series.histogram("request_generation_tokens", "Generated tokens, by request.", tokens)
        self._max_generation_tokens = series.histogram(
            "request_max_num_generation_tokens", "Tokens of the longest of a request's answers.", tokens
        )
        self._params_max_tokens = series.histogram("request_params_max_tokens", "max_tokens, by request.", tokens)
        self._params_n = series.histogram("request_params_n", "n, by request.", bounds_of("request_params_n", custom))
        self.num_preemptions = series.histogram(
            "request_num_preemptions", "Preemptions, by request.", bounds_of("request_num_preemptions", custom)
        )

    def on_request(self, n: int, samplings: Sequence[SamplingParams]) -> None:
        self._params_n.observe(n)
        for sampling in samplings:
            self._params_max_tokens.observe(sampling.max_tokens)

    def on_request_end(self, max_generation_tokens: int) -> None:
        self._max_generation_tokens.observe(max_generation_tokens)

    def count_end(self, reason: FinishReason) -> None:
        self._finished[reason.value].inc()

    def count_prompt(self, num_tokens: int, num_cached: int, num_fetched: int = 0) -> None:
        """``num_fetched`` of the cached ones came from another server."""
        self._throughput.count_prompt(num_tokens, num_cached)
        self._prompt_tokens.inc(num_tokens)
        self._by_source[_COMPUTED].inc(num_tokens - num_cached)
        self._by_source[_CACHED].inc(num_cached - num_fetched)
        self._by_source[_FETCHED].inc(num_fetched)
        self._cached_tokens.inc(num_cached)

    def count_generated(self, num_tokens: int) -> None:
        self._throughput.count_generated(num_tokens)
        self._generated_tokens.inc(num_tokens)

    def count_pooled(self, request: PoolRequest, reason: FinishReason, times: RequestTimes | None) -> None:
        """A text that was pooled, or was to be. ``times`` are the engine's own."""
        self.count_end(reason)
        if reason is not FinishReason.STOP or times is None or times.scheduled is None or times.last_token is None:
            return
        num_tokens = len(request.prompt_token_ids)
        self.count_prompt(num_tokens, 0)
        self.end_to_end.observe(time.time() - request.arrival_time)
        self.request_prompt_tokens.observe(num_tokens)
        self.computed_tokens.observe(num_tokens)
        self.queue.observe(times.scheduled - times.arrival)
        self.prefill.observe(times.last_token - times.scheduled)
        self.inference.observe(times.last_token - times.scheduled)


class RejectionMetrics:
    """Requests that no engine got."""

    def __init__(self, series: Series) -> None:
        family = Counter(
            series.name("admission_rejections"), "Requests refused for a full queue.", ["model_name", "reason"], registry=series.registry
        )
        self._by_limit = {limit: family.labels(series.model_name, limit) for limit in QUEUE_LIMITS}

    def count(self, limit: QueueLimit) -> None:
        self._by_limit[limit].inc()


class ChoiceRecorder:
    """One choice's life. ``on_tokens`` for each piece, then ``on_end`` once."""

    __slots__ = ("_first", "_last", "_metrics", "_num_cached", "_num_tokens", "_request")

    def __init__(self, metrics: RequestMetrics, request: GenerateRequest) -> None:
        self._metrics = metrics
        self._request = request
        self._first: float | None = None
        self._last = 0.0
        self._num_tokens = 0
        self._num_cached = 0

    def on_tokens(self, num_tokens: int, num_cached: int, num_fetched: int = 0) -> None:
        """``num_cached`` prompt tokens came from the prefix cache, or ``num_fetched`` of them from another server; it is known with the
        first piece."""
        if not num_tokens:
            return
        now = time.time()
        if self._first is None:
            self._first = now
            self._num_cached = num_cached
            self._metrics.first_token.observe(now - self._request.arrival_time)
            self._metrics.count_prompt(len(self._request.prompt_token_ids), num_cached, num_fetched)
        else:
            for histogram in self._metrics.between_tokens:
                histogram.observe(now - self._last)
        self._last = now
        self._num_tokens += num_tokens
        self._metrics.count_generated(num_tokens)

    def on_end(self, reason: FinishReason, times: RequestTimes | None) -> None:
        """``times`` are the engine's own; of what ended here, by a stop string, it does not know the last token's."""
        metrics = self._metrics
        metrics.count_end(reason)
        if not reason.is_answer or self._first is None:
            return
        num_prompt_tokens = len(self._request.prompt_token_ids)
        metrics.end_to_end.observe(time.time() - self._request.arrival_time)
        metrics.request_prompt_tokens.observe(num_prompt_tokens)
        metrics.computed_tokens.observe(num_prompt_tokens - self._num_cached)
        metrics.request_generation_tokens.observe(self._num_tokens)
        if times is not None and times.scheduled is not None and times.first_token is not None:
            last = self._last if times.last_token is None else times.last_token
            self._observe_phases(times.arrival, times.scheduled, times.first_token, last)
            metrics.num_preemptions.observe(times.num_preemptions)

    def _observe_phases(self, arrival: float, scheduled: float, first: float, last: float) -> None:
        metrics = self._metrics
        metrics.queue.observe(scheduled - arrival)
        metrics.prefill.observe(first - scheduled)
        metrics.inference.observe(last - scheduled)
        metrics.decode.observe(last - first)
        if self._num_tokens > 1:
            metrics.per_token.observe((last - first) / (self._num_tokens - 1))
