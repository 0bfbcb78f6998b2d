"""A prefill server and a decode server, as a user starts them: the same tokens as from one server, whatever becomes of either."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from disaggregated import client, config_of, decoded, prefilled, side_channel
from live_server import LiveServer
from polling import wait_until
from process_tree import descendants
from tiny_served import make_served_model

pytest.importorskip("nixl_cu12")

TEXT = "The quick brown fox jumps over the lazy dog, again and again. " * 3
COMPLETION = {"prompt": TEXT, "max_tokens": 16, "temperature": 0, "return_token_ids": True}
CHAT = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 16, "temperature": 0, "return_token_ids": True}
OPTIONS = ("--max-model-len", "2048", "--block-size", "16")
Pair = tuple[LiveServer, LiveServer]


@contextmanager
def pair(model: str, *arguments: str) -> Iterator[Pair]:
    """Both at once, each with a side channel of its own."""
    options = (*OPTIONS, *arguments, "--kv-transfer-config")
    prefill = LiveServer(model, *options, json.dumps(config_of("kv_producer")), env=side_channel())
    decode = LiveServer(model, *options, json.dumps(config_of("kv_consumer")), env=side_channel())
    with prefill, decode:
        yield prefill.wait_ready(), decode.wait_ready()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_served_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def servers(model: str) -> Iterator[Pair]:
    with pair(model, "--chat-template", "{% for m in messages %}{{ m.content }}{% endfor %}") as both:
        yield both


def tokens(answer: httpx.Response) -> list[list[int]]:
    assert answer.status_code == 200, answer.text
    return [choice["token_ids"] for choice in answer.json()["choices"]]


def fresh(body: dict[str, Any], word: str) -> dict[str, Any]:
    """Of another prompt, which no cache knows."""
    if "prompt" in body:
        return body | {"prompt": f"{word} {body['prompt']}"}
    return body | {"messages": [{"role": "user", "content": f"{word} {TEXT}"}]}


def assert_nothing_is_held(*servers: LiveServer) -> None:
    for server in servers:
        wait_until(lambda server=server: server.metric("vllm:kv_cache_usage_perc") == 0)


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)])
@pytest.mark.parametrize("n", [1, 2])
def test_the_same_tokens_as_one_server(servers: Pair, path: str, body: dict[str, Any], n: int) -> None:
    prefill, decode = servers
    asked = fresh(body, f"n is {n}") | {"n": n}
    answer = decoded(decode, path, asked, prefilled(prefill, path, asked))
    assert tokens(answer) == tokens(client().post(f"{prefill.url}{path}", json=asked))
    cached = answer.json()["usage"].get("prompt_tokens_details")
    assert cached is None or cached["cached_tokens"] > 0
    assert_nothing_is_held(prefill, decode)


def test_a_stream_and_prefix_hits_on_either_side(servers: Pair) -> None:
    prefill, decode = servers
    alone = fresh(COMPLETION, "half")
    longer = alone | {"prompt": alone["prompt"] + "And then some more of it."}
    expected = tokens(client().post(f"{prefill.url}/v1/completions", json=longer))[0]
    for asked in (alone, alone, longer):
        decoded(decode, "/v1/completions", asked, prefilled(prefill, "/v1/completions", asked))
    params = prefilled(prefill, "/v1/completions", longer)
    streamed: list[int] = []
    body = longer | {"stream": True, "kv_transfer_params": params}
    with client().stream("POST", f"{decode.url}/v1/completions", json=body) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                streamed += json.loads(line[6:])["choices"][0]["token_ids"]
    assert streamed == expected
    assert_nothing_is_held(prefill, decode)


def test_it_is_counted(servers: Pair) -> None:
    prefill, decode = servers
    before = decode.metric("vllm:external_prefix_cache_hits_total")
    asked = fresh(COMPLETION, "counted")
    decoded(decode, "/v1/completions", asked, prefilled(prefill, "/v1/completions", asked))
    assert decode.metric("vllm:external_prefix_cache_hits_total") > before
    assert decode.metric("vllm:nixl_bytes_transferred_sum") > 0
    assert decode.metric("vllm:nixl_xfer_time_seconds_count") > 0
    assert prefill.metric("vllm:external_prefix_cache_hits_total") == 0


@pytest.mark.parametrize(
    ("change", "param", "told"),
    [
        ({"remote_host": "192.0.2.1"}, "kv_transfer_params.remote_host", "allowed_peers"),
        ({"remote_request_id": None}, "kv_transfer_params", "must be those of the prefill server's answer"),
        ({"do_remote_decode": True}, "kv_transfer_params", "is a kv_consumer and keeps no KV"),
        ({"remote_rank": 1}, "kv_transfer_params.remote_rank", ""),
    ],
)
def test_what_a_request_may_not_say(servers: Pair, change: dict[str, Any], param: str, told: str) -> None:
    asked = {"do_remote_prefill": True, "remote_request_id": "x", "remote_host": "localhost", "remote_port": 1} | change
    answer = decoded(servers[1], "/v1/completions", COMPLETION, asked)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert told in answer.json()["error"]["message"]


def test_another_prompt_gets_nothing(servers: Pair) -> None:
    prefill, decode = servers
    mine = fresh(COMPLETION, "mine")
    params = prefilled(prefill, "/v1/completions", mine)
    answer = decoded(decode, "/v1/completions", fresh(COMPLETION, "not mine"), params)
    assert answer.status_code == 500
    assert "another prompt or cache_salt" in answer.json()["error"]["message"]
    assert tokens(decoded(decode, "/v1/completions", mine, params))
    assert_nothing_is_held(prefill, decode)


def test_the_prefill_server_is_killed_under_open_streams(model: str, servers: Pair) -> None:
    """The last one, since it ends a server that the others share: half of the requests may compute their prompts, half may not."""
    prefill, fails = servers
    options = (*OPTIONS, "--kv-transfer-config", json.dumps(config_of("kv_consumer", "recompute")))
    bodies = [fresh(COMPLETION, f"{index:04}") for index in range(32)]
    with LiveServer(model, *options, env=side_channel()) as computes:
        expected = [tokens(client().post(f"{prefill.url}/v1/completions", json=body)) for body in bodies]
        params = [prefilled(prefill, "/v1/completions", body) for body in bodies]
        computes.wait_ready()
        decoders = [fails, computes] * 16
        with ThreadPoolExecutor(32) as pool:
            open_ones = [
                pool.submit(decoded, server, "/v1/completions", *each) for server, *each in zip(decoders, bodies, params, strict=True)
            ]
            for process in [*descendants(prefill.process.pid), prefill.process.pid]:
                os.kill(process, signal.SIGKILL)
            answers = [one.result() for one in open_ones]
        assert [tokens(answer) for answer in answers[1::2]] == expected[1::2]
        for answer, wanted in zip(answers[::2], expected[::2], strict=True):
            assert answer.elapsed.total_seconds() < 5
            if answer.status_code == 500:
                assert "did not come from the prefill server" in answer.json()["error"]["message"]
            else:
                assert tokens(answer) == wanted
        assert_nothing_is_held(fails, computes)
