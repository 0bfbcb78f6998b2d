"""Traces, at a collector that decodes them: what a span says, whose child it is, and that nothing depends on the collector."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from api_server import ApiServer
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from trace_collector import TraceCollector, values
from websockets.sync.client import connect

from headway.server.api import tracing
from headway.server.api.traces import make_tracing
from headway.server.config.tracing import TracingConfig, tracing_problems
from headway.server.errors import ConfigError
from headway.server.log import configure_logging

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
SECRET = "a very private prompt"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": SECRET}], "stop": ["private-stop"]}


@pytest.fixture(scope="module")
def collector() -> Iterator[TraceCollector]:
    with TraceCollector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(collector: TraceCollector) -> Iterator[ApiServer]:
    """With a key, and a batch of spans every 20 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        options = {"tracing": {"otlp_traces_endpoint": collector.url}, "security": {"api_key": ["a-key"]}}
        with ApiServer(max_model_len=9_000, **options) as server:
            server.client.headers["authorization"] = "Bearer a-key"
            yield server


@pytest.fixture(autouse=True)
def engine_as_before(traced: ApiServer) -> Iterator[None]:
    yield
    engine = traced.engine
    engine.is_endless, engine.fail_after, engine.max_open, engine.queue_timed_out = False, None, None, False
    traced.on_loop(engine.gate.set)


def span_with_id(collector: TraceCollector, request_id: str) -> Span:
    return collector.wait_for(lambda span: request_id in str(values(span.attributes).get("gen_ai.response.id")))


def test_a_chat_from_queue_to_end(traced: ApiServer, collector: TraceCollector) -> None:
    body = {**CHAT, "max_tokens": 100, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": 3, "n": 2, "request_id": "whole"}
    answer = traced.post("/v1/chat/completions", body)
    span = span_with_id(collector, "whole")
    assert span.name == "chat tiny"
    assert span.kind == Span.SPAN_KIND_SERVER
    assert span.parent_span_id == b""
    found = values(span.attributes)
    latencies = {name: found.pop(name) for name in list(found) if name.startswith("gen_ai.latency.")}
    usage = answer.json()["usage"]
    assert found == {
        "server.address": "127.0.0.1",
        "server.port": int(traced.url.rpartition(":")[2]),
        "url.path": "/v1/chat/completions",
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "headway",
        "gen_ai.system": "headway",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.max_tokens": 100,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.stream": False,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 7,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.seed": 3,
        "gen_ai.response.id": "chatcmpl-whole",
        "gen_ai.response.model": "tiny",
        "gen_ai.response.finish_reasons": ["stop", "stop"],
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": 4,
    }
    phases = {f"time_in_model_{phase}" for phase in ("prefill", "decode", "inference")}
    assert set(latencies) == {f"gen_ai.latency.{name}" for name in phases | {"time_in_queue", "time_to_first_token", "e2e"}}
    assert all(0 <= seconds < 60 for seconds in latencies.values())
    assert span.status.code == Status.STATUS_CODE_UNSET
    children = collector.children_of(span)
    assert set(children) == {"queue", "prefill", "decode"}
    assert children["queue"].end_time_unix_nano == children["prefill"].start_time_unix_nano
    assert children["prefill"].end_time_unix_nano == children["decode"].start_time_unix_nano
    assert collector.paths == {"/v1/traces"}
    assert collector.resource["service.name"] == "headway"
    assert collector.resource["deployment.environment.name"] == "test"


def test_no_text_of_a_user_is_in_any_span(traced: ApiServer, collector: TraceCollector) -> None:
    for path, body in (
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"prompt": SECRET, "stop": "private-stop"}),
        ("/v1/responses", {"input": SECRET}),
    ):
        traced.post(path, {**body, "request_id": "private", "user": "private-user"})
    traced.post("/v1/completions", {"prompt": SECRET, "model": "private-model"})
    traced.post("/v1/completions", {"prompt": SECRET, "request_id": "last"})
    span_with_id(collector, "last")
    assert SECRET not in str(collector.spans)
    assert "private-" not in str(collector.spans)


def test_a_stream_whose_caller_is_traced(traced: ApiServer, collector: TraceCollector) -> None:
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": "vendor=1"}
    traced.post("/v1/completions", {"prompt": "x", "stream": True, "request_id": "streamed"}, headers=headers)
    span = span_with_id(collector, "streamed")
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE_ID, PARENT_ID, "vendor=1")
    assert span.name == "text_completion tiny"
    found = values(span.attributes)
    assert found["gen_ai.request.stream"] is True
    assert found["gen_ai.response.finish_reasons"] == ["stop"]


@pytest.mark.parametrize("parent", ["00-zz", f"00-{'0' * 32}-{PARENT_ID}-01", "x" * 10_000, f"00-{TRACE_ID}-{PARENT_ID}-00-more"])
def test_a_parent_that_is_none(traced: ApiServer, collector: TraceCollector, parent: str) -> None:
    traced.post("/v1/completions", {"prompt": "x", "request_id": f"orphan{len(parent)}"}, headers={"traceparent": parent})
    assert span_with_id(collector, f"orphan{len(parent)}").parent_span_id == b""


def test_a_caller_that_does_not_sample_is_obeyed(traced: ApiServer, collector: TraceCollector) -> None:
    other = TRACE_ID[::-1]
    traced.post("/v1/completions", {"prompt": "x"}, headers={"traceparent": f"00-{other}-{PARENT_ID}-00"})
    traced.post("/v1/completions", {"prompt": "x", "request_id": "behind"})
    span_with_id(collector, "behind")
    assert not [span for span in collector.spans if span.trace_id.hex() == other]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [({"prompt": "x", "n": 0}, 400, "400"), ({"prompt": "x", "model": "gpt-7"}, 404, "404"), ({"prompt": "x" * 9999}, 400, "400")],
)
def test_a_refused_request(traced: ApiServer, collector: TraceCollector, body: dict[str, Any], status: int, error: str) -> None:
    collector.spans.clear()
    assert traced.post("/v1/completions", body).status_code == status
    span = collector.wait_for(lambda span: values(span.attributes).get("http.response.status_code") == status)
    assert span.name == "POST /v1/completions"
    assert values(span.attributes)["error.type"] == error
    assert span.status.code == Status.STATUS_CODE_UNSET


def test_a_request_without_a_key(traced: ApiServer, collector: TraceCollector) -> None:
    collector.spans.clear()
    assert traced.post("/v1/chat/completions", CHAT, headers={"authorization": "Bearer wrong"}).status_code == 401
    span = collector.wait_for(lambda span: values(span.attributes)["error.type"] == "401")
    assert span.name == "POST /v1/chat/completions"


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("error", ["error", "timeout", "queue_timeout", "503"])
def test_a_request_that_fails(traced: ApiServer, collector: TraceCollector, error: str, is_stream: bool) -> None:
    collector.spans.clear()
    engine = traced.engine
    engine.is_endless = error == "timeout"
    engine.fail_after = 1 if error == "error" else None
    engine.queue_timed_out = error == "queue_timeout"
    engine.max_open = 0 if error == "503" else None
    body = {"prompt": "x", "stream": is_stream, "max_tokens": 8_000, **({"timeout": 0.5} if error == "timeout" else {})}
    traced.post("/v1/completions", body)
    span = collector.wait_for(lambda span: "error.type" in values(span.attributes))
    assert span.name == ("POST /v1/completions" if error == "503" else "text_completion tiny")  # refused before it is read
    assert values(span.attributes)["error.type"] == error
    assert span.status.code == Status.STATUS_CODE_ERROR


def test_a_client_that_leaves(traced: ApiServer, collector: TraceCollector) -> None:
    traced.engine.is_endless = True
    body = {"prompt": "x", "stream": True, "max_tokens": 250, "request_id": "left"}
    with traced.client.stream("POST", "/v1/completions", json=body) as answer:
        next(answer.iter_raw())
    span = span_with_id(collector, "left")
    found = values(span.attributes)
    assert found["error.type"] == "abort"
    assert found["gen_ai.response.finish_reasons"] == ["abort"]
    assert found["gen_ai.latency.time_to_first_token"] >= 0
    assert set(collector.children_of(span)) == {"queue", "prefill", "decode"}


def test_messages_of_a_websocket(traced: ApiServer, collector: TraceCollector) -> None:
    headers = {"authorization": "Bearer a-key", "traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
    with connect(traced.url.replace("http", "ws", 1) + "/invocations-bidirectional-stream", additional_headers=headers) as ws:
        for number in (1, 2):
            ws.send(json.dumps({"prompt": "x", "request_id": f"message{number}"}))
            ws.recv(timeout=60)
        ws.send("{")
        ws.recv(timeout=60)
    for number in (1, 2):
        span = span_with_id(collector, f"message{number}")
        assert (span.name, span.parent_span_id.hex()) == ("text_completion tiny", PARENT_ID)
    bad = collector.wait_for(lambda span: span.name == "message")
    assert values(bad.attributes)["error.type"] == "RequestError"


def test_lines_of_a_batch_are_children_of_their_request(traced: ApiServer, collector: TraceCollector) -> None:
    collector.spans.clear()
    body = b'{"prompt": "x", "request_id": "line1"}\n{"prompt": "x", "request_id": "line2"}\n{'
    traced.client.post("/invocations", content=body, headers={"content-type": "application/jsonlines"})
    whole = collector.wait_for(lambda span: span.name == "POST /invocations")
    for name in ("line1", "line2"):
        assert span_with_id(collector, name).parent_span_id == whole.span_id
    assert values(collector.children_of(whole)["line"].attributes)["error.type"] == "RequestError"


def test_a_response_in_the_background_is_a_child_of_its_request(traced: ApiServer, collector: TraceCollector) -> None:
    traced.engine.gate.clear()
    begun = traced.post("/v1/responses", {"input": SECRET, "background": True}).json()
    traced.on_loop(traced.engine.gate.set)
    span = span_with_id(collector, begun["id"])
    assert (span.name, values(span.attributes)["gen_ai.response.finish_reasons"]) == ("chat tiny", ["stop"])
    request = collector.wait_for(lambda other: other.span_id == span.parent_span_id)
    assert request.name == "POST /v1/responses"
    assert request.end_time_unix_nano < span.end_time_unix_nano


def test_other_routes_have_no_spans(traced: ApiServer, collector: TraceCollector) -> None:
    collector.spans.clear()
    for path in ("/ping", "/health", "/metrics", "/v1/models", "/nowhere"):
        traced.client.get(path)
    traced.post("/tokenize", {"prompt": "x"})
    traced.post("/v1/completions", {"prompt": "x", "request_id": "only"})
    only = span_with_id(collector, "only")
    assert {span.trace_id for span in collector.spans} == {only.trace_id}


def test_log_lines_in_json_carry_the_ids(traced: ApiServer) -> None:
    written = StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], logging.getLogger("headway").level
    try:
        configure_logging("INFO", "api", stream=written, as_json=True)
        traced.post("/v1/completions", {"prompt": "x"}, headers={"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"})
        traced.client.get("/v1/models")
    finally:
        root.handlers[:] = before
        logging.getLogger("headway").setLevel(level)
        logging.captureWarnings(False)
    lines = {line["message"].split()[3]: line for line in map(json.loads, written.getvalue().splitlines()) if "HTTP/1.1" in line["message"]}
    assert lines["/v1/completions"]["trace_id"] == TRACE_ID
    assert len(lines["/v1/completions"]["span_id"]) == 16
    assert "trace_id" not in lines["/v1/models"]


@pytest.mark.parametrize("is_refusing", [True, False])
def test_a_collector_that_is_not_there(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_refusing: bool) -> None:
    """Refusing, or taking connections and never answering: one warning, and an end in time."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.2")
    monkeypatch.setattr(tracing, "FLUSH_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if not is_refusing:
            silent.listen(64)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with ApiServer(tracing={"otlp_traces_endpoint": url}) as server:
            for _ in range(20):
                assert server.post("/v1/completions", {"prompt": "x"}).status_code == 200
            server.wait_for(lambda: "Traces can't be sent" in caplog.text)
            for _ in range(20):
                assert server.post("/v1/completions", {"prompt": "x"}).status_code == 200
            ending = time.monotonic()
        assert time.monotonic() - ending < 30  # the exporter's own is a minute
    assert caplog.text.count("Traces can't be sent") == 1
    assert f"to {url}/v1/traces" in caplog.text


def test_the_last_spans_are_sent_at_the_end(collector: TraceCollector) -> None:
    with ApiServer(tracing={"otlp_traces_endpoint": collector.url}) as server:  # a batch every 5 s
        server.post("/v1/completions", {"prompt": "x", "request_id": "at-the-end"})
    assert span_with_id(collector, "at-the-end")


def test_neither_sdk_nor_exporter_is_imported_without_the_option() -> None:
    """The bare API may be: newer versions of FastAPI import it themselves."""
    code = (
        f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}\n"
        "from api_server import ApiServer\n"
        "with ApiServer() as server: assert server.post('/v1/completions', {'prompt': 'x'}).status_code == 200\n"
        "import headway.server.lifecycle, headway.server.launch\n"
        "heavy = ('opentelemetry.sdk', 'opentelemetry.exporter', 'opentelemetry.semconv', 'headway.server.api.tracing')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "headway.server.api.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    words = r"needs OpenTelemetry, and opentelemetry\.sdk\.trace is not installed: pip install 'headway\[otel\]'"
    with pytest.raises(ConfigError, match=words):
        make_tracing(TracingConfig(otlp_traces_endpoint="http://x:4318"), {})


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"])
def test_grpc_is_refused(variable: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable}=grpc is not supported: use http/protobuf"):
        make_tracing(TracingConfig(otlp_traces_endpoint="http://x:4317"), {variable: "grpc"})
    assert make_tracing(TracingConfig(), {variable: "grpc"}) is None


@pytest.mark.parametrize("url", ["grpc://x:4317", "x:4318", "", "http://", "http://x:port", "ftp://x"])
def test_endpoints_that_are_none(url: str) -> None:
    assert "must be a URL such as http://collector:4318/v1/traces" in tracing_problems(TracingConfig(otlp_traces_endpoint=url))[0]


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://x:4318", "http://x:4318/v1/traces"),
        ("http://x:4318/", "http://x:4318/v1/traces"),
        ("https://x/api/traces", "https://x/api/traces"),
        (None, None),
    ],
)
def test_endpoints(url: str | None, endpoint: str | None) -> None:
    config = TracingConfig(otlp_traces_endpoint=url)
    assert tracing_problems(config) == []
    assert config.endpoint == endpoint
