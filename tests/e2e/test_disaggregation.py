"""A prefill server and a decode server, as a user starts them: the same tokens as from one server, whatever becomes of either."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cut_proxy import CutProxy
from disaggregated import client, config_of, decoded, prefilled, side_channel
from live_server import LiveServer
from polling import wait_until
from process_tree import descendants
from routed import until
from router_process import router_process
from tiny_served import make_served_model

from headway.server.engine.kv.transfer.nixl.wire import GREETING

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


def told(url: str, body: dict[str, Any]) -> tuple[list[int], str | None, float]:
    """A stream's tokens, the error in it, and when it ended."""
    token_ids: list[int] = []
    error = None
    with httpx.Client(timeout=60) as own, own.stream("POST", f"{url}/v1/completions", json=body | {"stream": True}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                error = event["error"]["message"] if "error" in event else error
                token_ids += [token for choice in event.get("choices", ()) for token in choice["token_ids"]]
    return token_ids, error, time.monotonic()


def test_the_transfer_connection_is_cut_under_open_streams(servers: Pair) -> None:
    """Of 32 announced prompts 8 can be read; the other readers have claimed theirs, and wait when the connection is gone."""
    prefill, decode = servers
    bodies = [fresh(COMPLETION, f"cut {index:04}") for index in range(32)]

    def announced(proxy: CutProxy, body: dict[str, Any]) -> tuple[list[int], str | None, float]:
        asked = body | {"max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True, "announce": True}}
        with httpx.Client(timeout=60) as own, own.stream("POST", f"{prefill.url}/v1/completions", json=asked) as stream:
            lines = stream.iter_lines()
            first = next(line for line in lines if line.startswith("data: {"))
            params = json.loads(first[6:])["kv_transfer_params"]
            return told(decode.url, body | {"kv_transfer_params": params | {"remote_port": proxy.port}})

    known = prefilled(prefill, "/v1/completions", COMPLETION)
    assert tokens(decoded(decode, "/v1/completions", COMPLETION, known))
    with CutProxy(known["remote_port"], num_passed=8, num_bytes=len(GREETING) + 32) as proxy, ThreadPoolExecutor(32) as pool:
        open_ones = [pool.submit(announced, proxy, body) for body in bodies]
        wait_until(lambda: proxy.num_accepted == 32 or sum(one.done() for one in open_ones) + 8 > 32)
        proxy.cut()
        cut = time.monotonic()
        answers = [one.result() for one in open_ones]
    assert max(ended for _, _, ended in answers) - cut < 30
    for body, (token_ids, error, _) in zip(bodies, answers, strict=True):
        if error is None:
            assert [token_ids] == tokens(client().post(f"{prefill.url}/v1/completions", json=body))
        else:
            assert "did not come from the prefill server" in error
    assert sum(error is not None for _, error, _ in answers) >= 16
    assert_nothing_is_held(prefill, decode)


def test_a_router_overlaps_both_halves_and_may_be_killed(servers: Pair, tmp_path: Path) -> None:
    prefill, decode = servers
    halves = ["--policy", "disaggregated", "--prefill-servers", prefill.url, "--decode-servers", decode.url]

    async def main() -> None:
        async with router_process(halves, tmp_path / "log") as router:
            before = decode.metric("vllm:external_prefix_cache_hits_total")
            asked = fresh(COMPLETION, "routed")
            token_ids, error, _ = await asyncio.to_thread(told, router.url, asked)
            assert (error, [token_ids]) == (None, tokens(client().post(f"{prefill.url}/v1/completions", json=asked)))
            assert decode.metric("vllm:external_prefix_cache_hits_total") > before
            bodies = [fresh(COMPLETION, f"routed {index:04}") | {"max_tokens": 1500, "ignore_eos": True} for index in range(32)]
            with ThreadPoolExecutor(32) as pool:
                open_ones = [pool.submit(told, router.url, body) for body in bodies]
                await until(lambda: decode.metric("vllm:num_requests_running") > 0, 60)
                router.process.kill()
                ends = [one.exception() for one in open_ones]
            assert all(isinstance(end, httpx.TransportError) for end in ends)

    asyncio.run(main())
    for server in servers:
        wait_until(lambda server=server: server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting") == 0)
    # What a decode server had not been asked for when the router ended is kept for some seconds.
    wait_until(lambda: prefill.metric("vllm:kv_cache_usage_perc") == 0, limit_s=40)
    assert_nothing_is_held(decode)


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
            assert answer.elapsed.total_seconds() < 30
            if answer.status_code == 500:
                assert "did not come from the prefill server" in answer.json()["error"]["message"]
            else:
                assert tokens(answer) == wanted
        assert_nothing_is_held(fails, computes)
