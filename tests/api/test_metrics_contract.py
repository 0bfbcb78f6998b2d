"""vLLM's metrics as its dashboards, autoscalers and routers ask for them: names, types, labels and buckets, written down here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api_server import ApiServer
from exposition import Exported, exported
from websockets.sync.client import connect

L = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
T = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560)
I = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)  # noqa: E741 - the reference's letter
K = (1, 2, 5, 10, 20, 50, 100, 200)  # up to the 256 tokens of the model's context
STEPS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
HIGH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60)

OF_ONE_ENGINE = {"model_name": {"tiny"}, "engine": {"0"}}
CONTRACT: dict[str, tuple[str, dict[str, set[str]], tuple[float, ...]]] = {
    "vllm:num_requests_running": ("gauge", OF_ONE_ENGINE, ()),
    "vllm:num_requests_waiting": ("gauge", OF_ONE_ENGINE, ()),
    "vllm:num_requests_waiting_by_reason": ("gauge", OF_ONE_ENGINE | {"reason": {"capacity", "deferred"}}, ()),
    "vllm:kv_cache_usage_perc": ("gauge", OF_ONE_ENGINE, ()),
    "vllm:engine_sleep_state": ("gauge", OF_ONE_ENGINE | {"sleep_state": {"awake", "weights_offloaded", "discard_all"}}, ()),
    "vllm:prefix_cache_queries_total": ("counter", OF_ONE_ENGINE, ()),
    "vllm:prefix_cache_hits_total": ("counter", OF_ONE_ENGINE, ()),
    "vllm:num_preemptions_total": ("counter", OF_ONE_ENGINE, ()),
    "vllm:prompt_tokens_total": ("counter", OF_ONE_ENGINE, ()),
    "vllm:generation_tokens_total": ("counter", OF_ONE_ENGINE, ()),
    "vllm:prompt_tokens_by_source_total": (
        "counter",
        OF_ONE_ENGINE | {"source": {"local_compute", "local_cache_hit", "external_kv_transfer"}},
        (),
    ),
    "vllm:prompt_tokens_cached_total": ("counter", OF_ONE_ENGINE, ()),
    "vllm:request_success_total": (
        "counter",
        OF_ONE_ENGINE | {"finished_reason": {"stop", "length", "abort", "error", "repetition", "timeout", "queue_timeout"}},
        (),
    ),
    "vllm:admission_rejections_total": (
        "counter",
        {
            "model_name": {"tiny"},
            "reason": {"max_num_queued_reqs", "max_num_queued_tokens", "max_loras", "queue_timeout", "max_background_responses"},
        },
        (),
    ),
    "vllm:time_to_first_token_seconds": ("histogram", OF_ONE_ENGINE, T),
    "vllm:inter_token_latency_seconds": ("histogram", OF_ONE_ENGINE, I),
    "vllm:request_time_per_output_token_seconds": ("histogram", OF_ONE_ENGINE, I),
    "vllm:e2e_request_latency_seconds": ("histogram", OF_ONE_ENGINE, L),
    "vllm:request_queue_time_seconds": ("histogram", OF_ONE_ENGINE, L),
    "vllm:request_inference_time_seconds": ("histogram", OF_ONE_ENGINE, L),
    "vllm:request_prefill_time_seconds": ("histogram", OF_ONE_ENGINE, L),
    "vllm:request_decode_time_seconds": ("histogram", OF_ONE_ENGINE, L),
    "vllm:request_prompt_tokens": ("histogram", OF_ONE_ENGINE, K),
    "vllm:request_generation_tokens": ("histogram", OF_ONE_ENGINE, K),
    "vllm:request_max_num_generation_tokens": ("histogram", OF_ONE_ENGINE, K),
    "vllm:request_params_max_tokens": ("histogram", OF_ONE_ENGINE, K),
    "vllm:request_prefill_kv_computed_tokens": ("histogram", OF_ONE_ENGINE, K),
    "vllm:request_params_n": ("histogram", OF_ONE_ENGINE, (1, 2, 5, 10, 20)),
    "vllm:request_num_preemptions": ("histogram", OF_ONE_ENGINE, (1, 2, 3, 4, 5, 10, 20)),
    "vllm:iteration_tokens_total": ("histogram", OF_ONE_ENGINE, STEPS),
    "vllm:cache_config_info": (
        "gauge",
        {
            "engine": {"0"},
            "block_size": {"16"},
            "num_gpu_blocks": {"1024"},
            "cache_dtype": {"auto"},
            "gpu_memory_utilization": {"0.92"},
            "kv_cache_memory_bytes": {"None"},
            "num_gpu_blocks_override": {"None"},
            "enable_prefix_caching": {"True"},
        },
        (),
    ),
    "vllm:lora_requests_info": ("gauge", {"max_lora": {"4"}, "running_lora_adapters": {""}, "waiting_lora_adapters": {""}}, ()),
    "vllm:websocket_connections_active": ("gauge", OF_ONE_ENGINE, ()),
    "vllm:websocket_connections_total": ("counter", OF_ONE_ENGINE, ()),
    "vllm:websocket_connection_duration_seconds": ("histogram", OF_ONE_ENGINE, L),
    "http_requests_total": ("counter", {"handler": {"/tokenize"}, "method": {"POST"}, "status": {"2xx"}}, ()),
    "http_request_duration_seconds": ("histogram", {"handler": {"/tokenize"}, "method": {"POST"}}, (0.1, 0.5, 1)),
    "http_request_duration_highr_seconds": ("histogram", {}, HIGH),
    "http_request_size_bytes": ("summary", {"handler": {"/tokenize"}}, ()),
    "http_response_size_bytes": ("summary", {"handler": {"/tokenize"}}, ()),
}


@pytest.fixture(scope="module")
def text() -> Iterator[str]:
    with ApiServer(lora={"enable_lora": True}) as server:
        assert server.post("/tokenize", {"prompt": "x"}).status_code == 200
        with connect(f"ws{server.url.removeprefix('http')}/invocations-bidirectional-stream"):
            yield server.client.get("/metrics").text


@pytest.fixture(scope="module")
def found(text: str) -> dict[str, Exported]:
    return exported(text)


@pytest.mark.parametrize("name", CONTRACT)
def test_a_metric_is_as_others_ask_for_it(name: str, found: dict[str, Exported]) -> None:
    kind, labels, bounds = CONTRACT[name]
    assert name in found
    assert (found[name].kind, found[name].labels, found[name].bounds) == (kind, labels, bounds)


def test_nothing_else_has_vllm_s_prefix(found: dict[str, Exported]) -> None:
    """A name of theirs with another meaning would be worse than none."""
    assert {name for name in found if name.startswith("vllm:")} <= set(CONTRACT)


def test_counters_and_histograms_say_since_when_they_count(found: dict[str, Exported], text: str) -> None:
    for name, metric in found.items():
        if name.startswith("vllm:") and metric.kind in ("counter", "histogram"):
            created = f"{name.removesuffix('_total') if metric.kind == 'counter' else name}_created"
            assert f"\n{created}{{" in text, name


def test_the_process_tells_of_itself(found: dict[str, Exported]) -> None:
    assert {"process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total", "python_info"} <= set(found)
