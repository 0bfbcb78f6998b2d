"""KV offload as a user has it: ranks and engines each keep their own, and a restarted server finds what the one before it kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_server import LiveServer
from polling import wait_until
from tiny_served import make_served_model

TEXT = "The quick brown fox jumps over the lazy dog, again and again. "
OPTIONS = ("--max-model-len", "1024", "--block-size", "16", "--num-gpu-blocks-override", "64", "--enable-prompt-tokens-details")
HITS = "vllm:external_prefix_cache_hits_total"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_served_model(tmp_path_factory.mktemp("model"))


def on_disk(path: Path) -> tuple[str, str]:
    places = {"disk_path": str(path), "disk_bytes_to_use": 10**8}
    config = {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": places}
    return "--kv-transfer-config", json.dumps(config)


def ask(server: LiveServer, index: int) -> tuple[list[int], int]:
    """Its tokens, and how many of its prompt were cached. A prompt takes most of the cache."""
    body = {"prompt": f"{index:03} {TEXT * 12}", "max_tokens": 8, "temperature": 0, "return_token_ids": True}
    answer: dict[str, Any] = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
    wait_until(lambda: server.metric("vllm:kv_cache_usage_perc") == 0)  # all is copied out
    return answer["choices"][0]["token_ids"], (answer["usage"]["prompt_tokens_details"] or {})["cached_tokens"]


def test_every_rank_has_its_files_and_a_restart_finds_them(model: str, tmp_path: Path) -> None:
    arguments = (model, *OPTIONS, *on_disk(tmp_path), "--tensor-parallel-size", "2")
    with LiveServer(*arguments) as server:
        server.wait_ready()
        first = [ask(server, index) for index in range(3)]
        assert [cached for _, cached in first] == [0, 0, 0]
        again = [ask(server, index) for index in range(3)]
        assert [tokens for tokens, _ in again] == [tokens for tokens, _ in first]
        assert all(cached >= 700 for _, cached in again)
        assert server.metric(HITS) == sum(cached for _, cached in again)
        assert server.metric("vllm:kv_offload_load_bytes_total") > 0
        assert server.metric("vllm:kv_offload_load_size_count") > 0
    with LiveServer(*arguments) as server:
        server.wait_ready()
        wait_until(lambda: server.metric("headway:kv_offload_disk_usage_ratio") > 0)
        found = ask(server, 1)
        assert found == again[1]
        assert server.metric(HITS) == found[1]
    assert sorted(path.name.split("-", 1)[1] for path in tmp_path.iterdir()) == ["engine-0-rank-0", "engine-0-rank-1"]
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in tmp_path.iterdir())


def test_every_engine_has_its_files(model: str, tmp_path: Path) -> None:
    with LiveServer(model, *OPTIONS, *on_disk(tmp_path), "--kv-offloading-size", "0.01", "--data-parallel-size", "2") as server:
        server.wait_ready()
        tokens, _ = ask(server, 1)
        assert ask(server, 1)[0] == tokens
    assert sorted(path.name.split("-", 1)[1] for path in tmp_path.iterdir()) == ["engine-0-rank-0", "engine-1-rank-0"]
