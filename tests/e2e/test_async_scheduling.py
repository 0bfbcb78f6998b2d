"""A real server whose steps overlap, or which guesses ahead, gives what one gives that computes a token at a time in turn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from live_server import LiveServer
from tiny_served import make_served_model

pytestmark = pytest.mark.e2e

COLOUR = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "colour", "schema": COLOUR}}
BODIES: list[dict[str, Any]] = [
    {"prompt": "a", "logprobs": 3},
    {"prompt": "the second", "logprobs": 1, "echo": True},
    {"prompt": "x" * 40, "temperature": 1.0, "seed": 5, "top_p": 0.9},
    {"prompt": "y", "presence_penalty": 1.5, "bad_words": ["e"]},
    {"prompt": "z", "max_tokens": 3, "n": 3, "temperature": 1.0, "seed": 1},
    {"prompt": "q", "stop": ["e", "a"]},
    *({"prompt": f"{i}", "temperature": 1.0, "seed": i, "response_format": FORMAT} for i in range(4)),
]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LiveServer]]:
    """So small a cache preempts."""
    model = make_served_model(tmp_path_factory.mktemp("model"))
    options = (model, "--tokenizer", model, "--device", "cpu", "--dtype", "float32", "--max-model-len", "256")
    cache = ("--num-gpu-blocks-override", "12", "--block-size", "32")
    drafts = json.dumps({"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1})
    with (
        LiveServer(*options, *cache, "--async-scheduling") as overlapped,
        LiveServer(*options, *cache, "--speculative-config", drafts, "--log-stats-interval", "1") as drafted,
        LiveServer(*options, "--no-async-scheduling") as in_turn,
    ):
        yield {"overlapped": overlapped.wait_ready(), "drafted": drafted.wait_ready(), "in turn": in_turn.wait_ready()}


def choices(server: LiveServer, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = httpx.post(f"{server.url}/v1/completions", json={"max_tokens": 60, "temperature": 0, **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["choices"]
    return found


@pytest.mark.parametrize("name", ["overlapped", "drafted"])
def test_answers_are_the_same(servers: dict[str, LiveServer], name: str) -> None:
    in_turn = servers["in turn"]
    with ThreadPoolExecutor(len(BODIES)) as pool:
        together = list(pool.map(lambda body: choices(servers[name], body), BODIES))
    for body, found in zip(BODIES, together, strict=True):
        expected = choices(in_turn, body)
        for here, there in zip(found, expected, strict=True):
            assert (here["text"], here["finish_reason"]) == (there["text"], there["finish_reason"]), body
            if "logprobs" in body:
                assert here["logprobs"]["tokens"] == there["logprobs"]["tokens"]
                values = [[value for value in side["logprobs"]["token_logprobs"] if value is not None] for side in (here, there)]
                assert values[0] == pytest.approx(values[1], abs=1e-4)
        if "response_format" in body:
            assert json.loads(found[0]["text"])["colour"] in ("red", "blue")


def test_drafts_are_told_of(servers: dict[str, LiveServer]) -> None:
    drafted = servers["drafted"]
    assert "drafts   ngram: up to 3 tokens a request and step, by its last 1 to 5 tokens" in drafted.log()
    choices(drafted, {"prompt": "abcd" * 10, "logit_bias": {"70": 100}, "ignore_eos": True})
    accepted = drafted.metric("vllm:spec_decode_num_accepted_tokens_total")
    assert 0 < accepted <= drafted.metric("vllm:spec_decode_num_draft_tokens_total")
    drafted.wait_for(lambda: "SpecDecoding metrics: Mean acceptance length: " in drafted.log(), 60)


def test_it_ends_in_the_middle_of_a_stream(servers: dict[str, LiveServer]) -> None:
    overlapped = servers["overlapped"]
    body = {"prompt": "a", "max_tokens": 250, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{overlapped.url}/v1/completions", json=body, timeout=60) as stream:
        assert next(stream.iter_lines()).startswith("data:")
    overlapped.wait_for(lambda: overlapped.metric("vllm:num_requests_running") == 0)
    assert overlapped.stop() == 0
