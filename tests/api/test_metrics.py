"""Metrics tell what happened, in a bounded number of series; options name and shape them."""

from __future__ import annotations

import random
import string

import pytest
from api_server import ApiServer
from exposition import exported, metrics_of
from websockets.sync.client import connect

from headway.server.api.sagemaker.bidirectional import END
from headway.server.types import EngineStats, SleepState

# Those that HTTP has a name for and this server no use.
ODD_METHODS = ("PROPFIND", "MKCOL", "COPY", "LOCK", "REPORT", "M-SEARCH", "SUBSCRIBE", "LINK", "SOURCE", "TRACE")


def step(server: ApiServer, number: int, num_tokens: int) -> None:
    stats = EngineStats(num_steps=number, last_step_tokens=num_tokens)
    server.on_loop(lambda: [watcher(stats) for watcher in server.engine.watchers] and None)


def test_metrics_tell_what_happened(server: ApiServer) -> None:
    num_output = len(server.tokenizer.encode("hello world", add_special_tokens=False)) + 1
    server.post("/v1/completions", {"prompt": "hell", "n": 2})
    server.post("/v1/completions", {"prompt": "hell", "max_tokens": 1})
    server.post("/v1/completions", {"prompt": "hell", "stop": "world"})
    server.post("/v1/completions", {"promt": "hell"})
    server.engine.max_open = 0
    server.post("/v1/completions", {"prompt": "hell"})
    server.engine.stats = EngineStats(num_running=2, num_waiting=1, num_blocks_used=256, num_blocks_total=1024, prefix_cache_hits=7)
    found = metrics_of(server)
    assert found["vllm:num_requests_running"] == 2
    assert found["vllm:num_requests_waiting"] == found["vllm:num_requests_waiting_by_reason{'reason': 'capacity'}"] == 1
    assert found["vllm:num_requests_waiting_by_reason{'reason': 'deferred'}"] == 0
    assert found["vllm:kv_cache_usage_perc"] == 0.25
    assert found["vllm:prefix_cache_hits_total"] == 7
    assert found["vllm:prompt_tokens_total"] == 4
    assert found["vllm:request_success_total{'finished_reason': 'stop'}"] == 3
    assert found["vllm:request_success_total{'finished_reason': 'length'}"] == 1
    assert found["vllm:request_success_total{'finished_reason': 'abort'}"] == 0
    assert found["vllm:generation_tokens_total"] >= 2 * num_output + 1
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_decode_time_seconds", "request_generation_tokens"):
        assert found[f"vllm:{name}_count"] == 4, name
    # The engine did not see the end that the stop string made, and yet:
    for name in ("request_queue_time_seconds", "request_prefill_time_seconds", "request_inference_time_seconds", "request_num_preemptions"):
        assert found[f"vllm:{name}_count"] == 4, name
    assert found["vllm:request_params_n_sum"] == 2 + 1 + 1
    assert found["vllm:request_max_num_generation_tokens_count"] == 3
    assert found["vllm:admission_rejections_total{'reason': 'max_num_queued_reqs'}"] == 1
    completions = {"handler": "/v1/completions", "method": "POST"}
    assert found[f"http_requests_total{completions | {'status': '2xx'}}"] == 3
    assert found[f"http_requests_total{completions | {'status': '4xx'}}"] == 1
    assert found[f"http_requests_total{completions | {'status': '5xx'}}"] == 1
    assert found["headway:http_errors_total{'handler': '/v1/completions', 'type': 'ServiceUnavailableError'}"] == 1
    assert not any("/metrics" in name for name in found)


def test_prompt_tokens_are_told_apart_by_where_they_came_from(server: ApiServer) -> None:
    prompt = list(range(10, 20))
    server.post("/v1/completions", {"prompt": prompt, "max_tokens": 1})  # the engine finds 4 in its cache
    found = metrics_of(server)
    assert found["vllm:prompt_tokens_total"] == 10
    assert found["vllm:prompt_tokens_by_source_total{'source': 'local_compute'}"] == 6
    assert found["vllm:prompt_tokens_by_source_total{'source': 'local_cache_hit'}"] == found["vllm:prompt_tokens_cached_total"] == 4
    assert found["vllm:request_prefill_kv_computed_tokens_sum"] == 6


def test_each_step_counts_once(server: ApiServer) -> None:
    """The engine also tells of aborts, and repeats its last step then."""
    for number, num_tokens in ((1, 100), (1, 100), (2, 20)):
        step(server, number, num_tokens)
    server.wait_for(lambda: metrics_of(server)["vllm:iteration_tokens_total_count"] == 2)
    assert metrics_of(server)["vllm:iteration_tokens_total_sum"] == 120


def test_the_sleep_state_is_the_engine_s(server: ApiServer) -> None:
    def states() -> list[float]:
        found = metrics_of(server)
        return [found[f"vllm:engine_sleep_state{ {'sleep_state': state} }"] for state in ("awake", "weights_offloaded", "discard_all")]

    assert states() == [1, 0, 0]
    server.engine.sleep_state = SleepState(2, ("weights", "kv_cache"))
    assert states() == [0, 0, 1]


def test_websockets_are_counted_while_they_are_open(server: ApiServer) -> None:
    with connect(f"ws{server.url.removeprefix('http')}/invocations-bidirectional-stream") as socket:
        socket.send('{"prompt": "x", "stream": true}')
        while socket.recv().encode() != END:
            pass
        assert metrics_of(server)["vllm:websocket_connections_active"] == 1
    server.wait_for(lambda: metrics_of(server)["vllm:websocket_connections_active"] == 0)
    assert metrics_of(server)["vllm:websocket_connections_total"] == 1
    assert metrics_of(server)["vllm:websocket_connection_duration_seconds_count"] == 1


def test_an_error_in_a_stream_is_counted_though_its_status_was_200(server: ApiServer) -> None:
    server.engine.fail_after = 1
    assert "something broke" in server.post("/v1/completions", {"prompt": "x", "stream": True}).text
    completions = {"handler": "/v1/completions", "type": "InternalServerError"}
    server.wait_for(lambda: metrics_of(server).get(f"headway:http_errors_total{completions}") == 1)
    assert metrics_of(server)["vllm:request_success_total{'finished_reason': 'error'}"] == 1


def test_a_missing_key_is_counted() -> None:
    with ApiServer(security={"api_key": ["a-key"]}) as server:
        assert server.post("/v1/completions", {"prompt": "x"}).status_code == 401
        found = metrics_of(server)
        assert found["http_requests_total{'handler': '/v1/completions', 'method': 'POST', 'status': '4xx'}"] == 1
        assert found["headway:http_errors_total{'handler': '/v1/completions', 'type': 'AuthenticationError'}"] == 1


def test_a_server_that_starts_has_metrics_too() -> None:
    with ApiServer(is_ready=False) as server:
        server.engine.phase, info, server.engine.info = "loading weights", server.engine.info, None
        found = metrics_of(server)
        assert found["headway:ready"] == found["vllm:num_requests_running"] == 0
        assert not any(name.startswith(("vllm:cache_config_info", "vllm:request_prompt_tokens")) for name in found)
        server.engine.phase, server.engine.info = "ready", info
        assert info is not None
        server.on_loop(lambda: server.served.set_ready(info))
        server.wait_for(lambda: metrics_of(server)["headway:ready"] == 1)
        assert metrics_of(server)["vllm:request_prompt_tokens_count"] == 0


def test_a_stalled_engine_shows(server: ApiServer) -> None:
    assert metrics_of(server)["headway:engine_stalled_seconds"] == 0
    server.engine.stalled_s = 12.5
    assert metrics_of(server)["headway:engine_stalled_seconds"] == 12.5


def odd_text(draw: random.Random) -> str:
    return "".join(draw.choices(string.ascii_letters + string.digits + "-_.~", k=draw.randint(1, 30)))


def test_strange_requests_make_no_series() -> None:
    draw = random.Random(0)
    with ApiServer(lora={"enable_lora": True}) as server:
        ask = server.client.request
        for method in ("GET", "POST", "PROPFIND"):  # each route and kind of answer once
            ask(method, "/nowhere")
            ask(method, "/v1/completions", json={"prompt": "x", "model": "unknown"})
            ask(method, "/adapters/unknown")
            ask(method, "/v1/models/unknown")
        before = set(metrics_of(server))
        for _ in range(200):
            odd = odd_text(draw)
            assert ask(odd_text(draw).upper(), f"/{odd}").status_code == 400  # no method at all
            assert ask(draw.choice(ODD_METHODS), f"/{odd}").status_code == 404
            assert ask("GET", f"/adapters/{odd}", headers={odd_text(draw): odd}).status_code == 404
            headers = {"x-request-id": odd, "x-amzn-sagemaker-adapter-identifier": odd, "endpoint-load-metrics-format": odd}
            assert ask("POST", "/v1/completions", json={"prompt": "x", "model": odd}, headers=headers).status_code == 404
            assert ask("GET", f"/v1/models/{odd}/{odd}").status_code == 404
        assert set(metrics_of(server)) == before


def test_statistics_can_be_turned_off() -> None:
    with ApiServer(observability={"disable_log_stats": True}, lora={"enable_lora": True}) as server:
        assert server.post("/v1/completions", {"prompt": "x"}).status_code == 200
        text = server.client.get("/metrics").text
        assert "vllm:" not in text
        assert "http_requests_total" in text


def test_another_prefix_clashes_with_nothing_of_ours() -> None:
    options = {"metrics_prefix": "headway:", "enable_old_metric_names": True}
    with ApiServer(observability=options, lora={"enable_lora": True}) as server:
        found = exported(server.client.get("/metrics").text)  # which finds no name twice
    assert not any(name.startswith("vllm:") for name in found)
    names = ("num_requests_running", "lora_requests_info", "request_params_n", "cache_config_info", "websocket_connections_active")
    assert {f"headway:{name}" for name in names} <= set(found)


def test_buckets_can_be_chosen() -> None:
    bounds = {"request_latency": [0.5, 2], "request_tokens": [7], "iteration_tokens": [3], "inter_token_latency": [1, 2, 3]}
    with ApiServer(observability={"custom_histogram_buckets": bounds}) as server:
        found = exported(server.client.get("/metrics").text)
    assert found["vllm:e2e_request_latency_seconds"].bounds == (0.5, 2)
    assert found["vllm:request_prompt_tokens"].bounds == (7,)
    assert found["vllm:iteration_tokens_total"].bounds == (3,)
    assert found["vllm:request_time_per_output_token_seconds"].bounds == (1, 2, 3)
    assert found["vllm:request_params_n"].bounds == (1, 2, 5, 10, 20)


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_names_that_vllm_has_dropped(is_asked_for: bool) -> None:
    with ApiServer(observability={"enable_old_metric_names": is_asked_for}) as server:
        server.engine.stats = EngineStats(num_blocks_used=256, num_blocks_total=1024, prefix_cache_queries=8, prefix_cache_hits=7)
        server.post("/v1/completions", {"prompt": "hell"})
        found = metrics_of(server)
    names = ("gpu_cache_usage_perc", "gpu_prefix_cache_queries_total", "gpu_prefix_cache_hits_total", "time_per_output_token_seconds_count")
    values = [found.get(f"vllm:{name}") for name in names]
    assert values == ([0.25, 8, 7, found["vllm:inter_token_latency_seconds_count"]] if is_asked_for else [None] * 4)


def test_phases_that_end_later_are_told_too() -> None:
    """At the start of a server none has ended yet, while the model is on its way."""
    phases: dict[str, float] = {}
    with ApiServer(phases=phases) as server:
        assert not any("startup_phase" in name for name in metrics_of(server))
        phases["getting the model"] = 2.5
        assert metrics_of(server)["headway:startup_phase_seconds{'phase': 'getting the model'}"] == 2.5
