"""A real server whose drafts are made by an EAGLE head."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from live_server import LiveServer
from tiny_heads import make_head
from tiny_served import make_served_model

from headway.server.source.files import ModelFiles

pytestmark = pytest.mark.e2e


def test_a_head_drafts_and_is_told_of(tmp_path: Path) -> None:
    """A bias leaves the model no choice but one of the four tokens that the head guesses, so that some guesses are right."""
    model = make_served_model(tmp_path / "model", num_layers=4)
    files = ModelFiles("safetensors", Path(model), None, model)
    head = make_head("eagle3", tmp_path / "head", files, config={"draft_vocab_size": 4}).path
    asked = ("-sc.method=eagle3", "-sc.model", str(head), "-sc.num_speculative_tokens=3")
    with LiveServer(model, "--dtype", "float32", "--max-model-len", "256", *asked) as server:
        server.wait_ready()
        body = {"prompt": "abc", "max_tokens": 32, "temperature": 0, "ignore_eos": True, "logit_bias": {"3": 90}, "return_token_ids": True}
        answers = [httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json() for _ in range(2)]
        metrics = httpx.get(f"{server.url}/metrics").text
        log = server.log()
    for answer in answers:
        assert answer["choices"][0]["token_ids"] == [3] * 32
    assert f"drafts   eagle3: up to 3 tokens a request and step, by {head} (eagle3, fp32, " in log
    for name in ("drafts", "draft_tokens", "accepted_tokens"):
        counts = re.findall(rf"^vllm:spec_decode_num_{name}_total\S* (\S+)$", metrics, re.MULTILINE)
        assert counts
        assert float(counts[0]) > 0, name
