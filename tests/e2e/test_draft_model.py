"""A real server whose drafts are made by a model."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from live_server import LiveServer
from tiny_served import make_served_model

pytestmark = pytest.mark.e2e


def test_a_model_drafts_and_is_told_of(tmp_path: Path) -> None:
    """With the same weights its first drafts are right; later ones may not be worth their time."""
    model = make_served_model(tmp_path)
    asked = ("-sc.model", model, "-sc.num_speculative_tokens=3")
    with LiveServer(model, "--dtype", "float32", "--max-model-len", "256", *asked) as server:
        server.wait_ready()
        body = {"prompt": "abc", "max_tokens": 16, "temperature": 0, "ignore_eos": True}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
        assert answer.json()["usage"]["completion_tokens"] == 16
        metrics = httpx.get(f"{server.url}/metrics").text
        log = server.log()
    assert f"drafts   draft_model: up to 3 tokens a request and step, by {model} (llama, fp32, " in log
    for name in ("drafts", "draft_tokens", "accepted_tokens"):
        counts = re.findall(rf"^vllm:spec_decode_num_{name}_total\S* (\S+)$", metrics, re.MULTILINE)
        assert counts
        assert float(counts[0]) > 0, name
