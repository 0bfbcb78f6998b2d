"""A real server whose keys and values are in fp8."""

from __future__ import annotations

import httpx
import pytest
from live_server import LiveServer

pytestmark = pytest.mark.e2e
QUESTION = {"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}


def test_it_answers_and_says_so() -> None:
    arguments = ("demo", "--dtype", "float32", "--max-model-len", "1024", "--kv-cache-memory-bytes", "64M")
    with LiveServer(*arguments, "--kv-cache-dtype", "fp8") as server:
        server.wait_ready()
        answer = httpx.post(f"{server.url}/v1/completions", json=QUESTION, timeout=60).json()
        assert "Paris" in answer["choices"][0]["text"]
        metrics = httpx.get(f"{server.url}/metrics").text
    assert 'cache_dtype="fp8"' in metrics
    # SmolLM2-135M: 30 layers, 3 heads of 64, 32 tokens a block, a byte a number, keys and values.
    assert f'num_gpu_blocks="{64 * 2**20 // (30 * 3 * 64 * 32 * 2)}"' in metrics
