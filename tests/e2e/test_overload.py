"""Limits, time limits and traces with the real engine: its blocks are free again, and its times are in the spans."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from live_server import LiveServer
from trace_collector import TraceCollector, values

pytestmark = pytest.mark.e2e
LONG: dict[str, Any] = {"prompt": "Once upon a time", "max_tokens": 3000, "ignore_eos": True}
OPTIONS = ("--max-num-seqs", "1", "--queue-timeout", "2", "--max-num-queued-reqs", "2", "--max-num-queued-tokens", "500")


@pytest.fixture(scope="module")
def collector() -> Iterator[TraceCollector]:
    with TraceCollector() as collector:
        yield collector


@pytest.fixture(scope="module")
def server(collector: TraceCollector) -> Iterator[LiveServer]:
    with LiveServer("demo", *OPTIONS, "--otlp-traces-endpoint", collector.url, env={"OTEL_SERVICE_NAME": "mine"}) as live:
        yield live.wait_ready()


def complete(server: LiveServer, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/completions", json={"prompt": "Hello", "max_tokens": 2, **fields}, timeout=60)


def wait_until_idle(server: LiveServer) -> None:
    server.wait_for(lambda: not server.metric("vllm:num_requests_running") and not server.metric("vllm:kv_cache_usage_perc"), 60)


def test_a_request_that_runs_too_long_gives_its_blocks_back(server: LiveServer) -> None:
    answer = complete(server, **LONG, timeout=3)
    assert answer.status_code == 504
    wait_until_idle(server)
    streamed = complete(server, **LONG, timeout=3, stream=True)
    events = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["code"] == 504
    assert json.loads(events[0])["choices"][0]["text"]
    wait_until_idle(server)


def test_a_request_that_waits_too_long_and_one_too_many(server: LiveServer) -> None:
    with httpx.stream("POST", f"{server.url}/v1/completions", json={**LONG, "stream": True}, timeout=60) as running:
        pieces = running.iter_raw()  # kept: the answer is closed with it
        next(pieces)
        waited = complete(server)
        assert waited.status_code == 503
        assert "without being scheduled (--queue-timeout)" in waited.json()["error"]["message"]
        assert int(waited.headers["retry-after"]) >= 1
        too_many = complete(server, n=2)
        assert too_many.status_code == 503
        assert "1 request open, and --max-num-queued-reqs allows 2" in too_many.json()["error"]["message"]
    wait_until_idle(server)
    assert complete(server).status_code == 200


def test_a_prompt_that_is_never_admitted(server: LiveServer) -> None:
    answer = complete(server, prompt=[5] * 501)
    assert answer.status_code == 400
    assert "prompts have 501 tokens" in answer.json()["error"]["message"]
    assert complete(server, prompt=[5] * 500).status_code == 200


def test_spans_tell_the_engine_s_times_and_the_last_ones_are_sent(server: LiveServer, collector: TraceCollector) -> None:
    complete(server, request_id="traced", max_tokens=5, ignore_eos=True)
    assert server.stop() == 0
    span = collector.wait_for(lambda span: values(span.attributes).get("gen_ai.response.id") == "cmpl-traced")
    found = values(span.attributes)
    assert found["gen_ai.usage.output_tokens"] == 5
    assert 0 < found["gen_ai.latency.time_in_model_decode"] < found["gen_ai.latency.e2e"]
    assert set(collector.children_of(span)) == {"queue", "prefill", "decode"}
    assert collector.resource["service.name"] == "mine"
    assert {"timeout", "queue_timeout"} <= {values(span.attributes).get("error.type") for span in collector.spans}
