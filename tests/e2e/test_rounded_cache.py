"""A real server whose keys and values are rounded."""

from __future__ import annotations

import httpx
import pytest
from live_server import LiveServer

pytestmark = pytest.mark.e2e
QUESTION = {"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}


# SmolLM2-135M: 30 layers, 3 heads of 64, 32 tokens a block, a byte a number, keys and values; in int8 a scale of each head.
@pytest.mark.parametrize(("asked", "head_bytes"), [("fp8", 64), ("int8", 64 + 4)])
def test_it_answers_and_says_so(asked: str, head_bytes: int) -> None:
    arguments = ("demo", "--dtype", "float32", "--max-model-len", "1024", "--kv-cache-memory-bytes", "64M")
    with LiveServer(*arguments, "--kv-cache-dtype", asked) as server:
        server.wait_ready()
        answer = httpx.post(f"{server.url}/v1/completions", json=QUESTION, timeout=60).json()
        assert "Paris" in answer["choices"][0]["text"]
        metrics = httpx.get(f"{server.url}/metrics").text
    assert f'cache_dtype="{asked}"' in metrics
    assert f'num_gpu_blocks="{64 * 2**20 // (30 * 3 * head_bytes * 32 * 2)}"' in metrics
