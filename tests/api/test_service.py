"""Keys, ids, metrics, documentation, SageMaker's headers, the statistics line."""

from __future__ import annotations

import re
from typing import Any

import pytest
from api_server import ApiServer
from prometheus_client.parser import text_string_to_metric_families

from headway.server.api.request_metrics import RequestMetrics
from headway.server.api.stats_log import StatsLog
from headway.server.types import EngineStats

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}


def metrics_of(server: ApiServer) -> dict[str, float]:
    """Each sample by name and its labels but model_name and engine."""
    text = server.client.get("/metrics").text
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in ("model_name", "engine")}
            found[sample.name + ("" if not labels else str(labels))] = sample.value
    return found


def test_the_key_guards_every_route_but_four() -> None:
    with ApiServer(security={"api_key": ["first-key", "second-key"]}) as server:
        paths = [route.path for route in server.app.routes if hasattr(route, "methods")]
        assert {"/docs", "/openapi.json", "/invocations", "/v1/chat/completions", "/tokenize", "/load"} <= set(paths)
        for path in [*paths, "/nowhere", "//ping", "/ping/../v1/models", "/v1/ping"]:
            for method in ("GET", "POST"):
                status = server.client.request(method, path).status_code
                if path in ("/ping", "/health", "/metrics", "/metrics/", "/version"):
                    assert status in (200, 405), path
                else:
                    assert status == 401, path
        for header in ("first-key", "Basic first-key", "Bearer", "Bearer third", "Bearer first-key2", "Bearer first-kéy"):
            answer = server.client.get("/v1/models", headers={"authorization": header.encode()})
            assert answer.status_code == 401
            assert answer.json()["error"]["type"] == "AuthenticationError"
            assert answer.headers["www-authenticate"] == "Bearer"
        for header in ("Bearer first-key", "bearer second-key"):
            assert server.client.get("/v1/models", headers={"authorization": header}).status_code == 200
        assert server.client.options("/v1/models").status_code == 405  # let through, to whom it concerns
        with server.openai(api_key="second-key") as client:
            assert client.chat.completions.create(model="tiny", **CHAT).choices


def test_a_root_path_does_not_open_the_door() -> None:
    with ApiServer(security={"api_key": ["a-key"]}, network={"root_path": "/models"}) as server:
        assert server.client.get("/ping").status_code == 200
        assert server.client.get("/v1/models").status_code == 401


def test_request_ids_come_back_when_asked() -> None:
    with ApiServer(http={"enable_request_id_headers": True}, security={"api_key": ["a-key"]}) as server:
        assert server.client.get("/ping", headers={"x-request-id": "abc"}).headers["x-request-id"] == "abc"
        assert server.client.get("/nowhere", headers={"x-request-id": "abc"}).headers["x-request-id"] == "abc"
        fresh = server.client.get("/ping", headers={"x-request-id": "a b"}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", fresh)
    with ApiServer() as server:
        assert "x-request-id" not in server.client.get("/ping").headers


def test_invocations_takes_chats_and_completions_and_echoes_attributes(server: ApiServer) -> None:
    headers = {"X-Amzn-SageMaker-Custom-Attributes": "trace=1"}
    chat = server.post("/invocations", CHAT, headers=headers)
    assert chat.json()["object"] == "chat.completion"
    assert chat.headers["x-amzn-sagemaker-custom-attributes"] == "trace=1"
    assert "content-length" in chat.headers
    plain = server.post("/invocations", {"prompt": "x", "model": ""})
    assert plain.json()["object"] == "text_completion"
    assert "x-amzn-sagemaker-custom-attributes" not in plain.headers
    stream = server.post("/invocations", {**CHAT, "stream": True}, headers=headers)
    assert stream.headers["x-amzn-sagemaker-custom-attributes"] == "trace=1"
    assert stream.text.endswith("data: [DONE]\n\n")


def test_metrics_tell_what_happened(server: ApiServer) -> None:
    num_output = len(server.tokenizer.encode("hello world", add_special_tokens=False)) + 1
    server.post("/v1/completions", {"prompt": "hell", "n": 2})
    server.post("/v1/completions", {"prompt": "hell", "max_tokens": 1})
    server.post("/v1/completions", {"prompt": "hell", "stop": "world"})
    server.post("/v1/completions", {"promt": "hell"})
    server.engine.max_open = 0
    server.post("/v1/completions", {"prompt": "hell"})
    server.engine.stats = EngineStats(num_running=2, num_waiting=1, num_blocks_used=256, num_blocks_total=1024, prefix_cache_hits=7)
    server.on_loop(lambda: [watcher(EngineStats(last_step_tokens=100)) for watcher in server.engine.watchers] and None)
    found = metrics_of(server)
    assert found["vllm:num_requests_running"] == 2
    assert found["vllm:num_requests_waiting"] == 1
    assert found["vllm:kv_cache_usage_perc"] == 0.25
    assert found["vllm:prefix_cache_hits_total"] == 7
    assert found["vllm:prompt_tokens_total"] == 4
    assert found["vllm:request_success_total{'finished_reason': 'stop'}"] == 3
    assert found["vllm:request_success_total{'finished_reason': 'length'}"] == 1
    assert found["vllm:request_success_total{'finished_reason': 'abort'}"] == 0
    assert found["vllm:generation_tokens_total"] >= 2 * num_output + 1
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_decode_time_seconds", "request_generation_tokens"):
        assert found[f"vllm:{name}_count"] == 4, name
    for name in ("request_queue_time_seconds", "request_prefill_time_seconds", "request_inference_time_seconds"):
        assert found[f"vllm:{name}_count"] == 3, name  # the engine did not see the end that the stop string made
    assert found["vllm:request_params_n_sum"] == 2 + 1 + 1
    assert found["vllm:request_max_num_generation_tokens_count"] == 3
    assert found["vllm:admission_rejections_total{'reason': 'max_num_queued_reqs'}"] == 1
    server.wait_for(lambda: metrics_of(server)["vllm:iteration_tokens_total_sum"] == 100)
    assert any(name.startswith("vllm:cache_config_info") for name in found)
    completions = {"handler": "/v1/completions", "method": "POST"}
    assert found[f"http_requests_total{completions | {'status': '2xx'}}"] == 3
    assert found[f"http_requests_total{completions | {'status': '4xx'}}"] == 1
    assert found[f"http_requests_total{completions | {'status': '5xx'}}"] == 1
    assert not any("/metrics" in name for name in found)


def test_strange_requests_make_few_series(server: ApiServer) -> None:
    for i in range(5):
        server.client.request(f"METHOD{i}"[:6] + "XYZ", f"/nowhere/{i}")
        server.client.get(f"/v1/models/m{i}")
    handlers = {name for name in metrics_of(server) if name.startswith("http_requests_total")}
    assert len(handlers) <= 2


def test_metrics_carry_vllm_s_labels(server: ApiServer) -> None:
    text = server.client.get("/metrics").text
    for name in ("num_requests_running", "prompt_tokens_total"):
        assert re.search(rf'vllm:{name}{{(engine="0",model_name="tiny"|model_name="tiny",engine="0")}}', text)
    assert "process_resident_memory_bytes" in text
    assert server.client.get("/metrics/").status_code == 200


def test_statistics_can_be_turned_off() -> None:
    with ApiServer(observability={"disable_log_stats": True}) as server:
        assert server.post("/v1/completions", {"prompt": "x"}).status_code == 200
        text = server.client.get("/metrics").text
        assert "vllm:" not in text
        assert "http_requests_total" in text


def test_several_names_for_one_model() -> None:
    with ApiServer(model={"model": "tiny", "served_model_name": ["main", "alias"]}) as server:
        assert [card["id"] for card in server.client.get("/v1/models").json()["data"]] == ["main", "alias"]
        assert server.post("/v1/completions", {"prompt": "x", "model": "alias"}).json()["model"] == "main"
        assert server.post("/v1/completions", {"prompt": "x", "model": "tiny"}).status_code == 404


@pytest.mark.parametrize("loaded", [True, False])
def test_the_statistics_line_is_there_while_there_is_work(server: ApiServer, loaded: bool) -> None:
    from prometheus_client import CollectorRegistry

    requests = RequestMetrics(CollectorRegistry(), "tiny", "0")
    line_log = StatsLog(server.engine, requests)
    assert line_log.next_line() is None
    if loaded:
        requests.count_generated(50)
        server.engine.stats = EngineStats(num_running=3, num_blocks_used=1, num_blocks_total=2, prefix_cache_queries=4, prefix_cache_hits=1)
        line = line_log.next_line()
        assert line is not None
        for part in (
            "Running: 3 reqs",
            "Waiting: 0 reqs",
            "KV cache usage: 50.0%",
            "Prefix cache hit rate: 25.0%",
            "generation throughput",
        ):
            assert part in line
        server.engine.stats = EngineStats()
        assert line_log.next_line() is not None  # the quiet after
    assert line_log.next_line() is None
