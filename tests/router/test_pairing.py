"""Requests that a prefill server begins and a decode server answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from routed import (
    DONE,
    EVENT,
    Handler,
    RoutedServers,
    SmallServer,
    breaking_after,
    closed_port,
    events_of,
    full,
    metric,
    routed,
    small_server,
    until,
)

PARAMS = {"do_remote_prefill": True, "do_remote_decode": False, "remote_block_ids": [4, 5], "remote_host": "10.0.0.7", "remote_port": 5600}
CHAT = {
    "messages": [{"role": "user", "content": "Hello"}],
    "max_completion_tokens": 90,
    "min_tokens": 5,
    "stream": True,
    "stream_options": {"include_usage": True},
}


async def keeping(request: web.Request) -> web.StreamResponse:
    """A prefill server that keeps what it computes."""
    asked = await request.json()
    return web.json_response({"choices": [], "kv_transfer_params": PARAMS | {"for": asked["messages"][0]["content"]}})


def saying(answer: dict[str, Any], status: int = 200) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.json_response(answer, status=status)

    return handle


@dataclass
class Halves:
    running: RoutedServers
    client: aiohttp.ClientSession
    prefill: list[SmallServer]
    decode: list[SmallServer]

    async def chat(self, body: dict[str, Any] = CHAT, path: str = "/v1/chat/completions") -> bytes:
        async with self.client.post(self.running.url + path, json=body) as answer:
            assert answer.status == 200
            return await answer.read()

    async def unpaired(self, reason: str) -> float:
        return await metric(self.running, self.client, f'headway:router_unpaired_total{{reason="{reason}"}}')


@asynccontextmanager
async def halves(prefill: list[Handler], decode: list[Handler]) -> AsyncIterator[Halves]:
    async with AsyncExitStack() as stack:
        both = [[await stack.enter_async_context(small_server(handle)) for handle in half] for half in (prefill, decode)]
        names = {role: [server.url for server in half] for role, half in zip(("prefill_servers", "decode_servers"), both, strict=True)}
        running = await stack.enter_async_context(routed(routing={"policy": "disaggregated", **names}))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        yield Halves(running, client, *both)


async def sent(server: SmallServer, number: int = 0) -> dict[str, Any]:
    read: dict[str, Any] = await server.requests[number].json()
    return read


async def recording_stream(request: web.Request) -> web.StreamResponse:
    await request.read()  # kept by aiohttp for whoever looks later
    return await events_of(request)


async def recording(request: web.Request) -> web.StreamResponse:
    await request.read()
    return await keeping(request)


def test_the_prefill_server_s_transfer_goes_to_the_decode_server_which_streams() -> None:
    async def main() -> None:
        async with halves([recording], [recording_stream]) as both:
            assert await both.chat() == EVENT * 3 + DONE
            assert await sent(both.prefill[0]) == {
                "messages": CHAT["messages"],
                "max_tokens": 1,
                "max_completion_tokens": 1,
                "stream": False,
                "kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False, "announce": True},
            }
            assert await sent(both.decode[0]) == {**CHAT, "kv_transfer_params": PARAMS | {"for": "Hello"}}
            ids = {server.requests[0].headers["x-request-id"] for server in (both.prefill[0], both.decode[0])}
            assert len(ids) == 1
            assert "accept-encoding" not in both.prefill[0].requests[0].headers, "its answer is read here"
            assert await metric(both.running, both.client, "headway:router_unpaired_total") == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": ["a", "b"]}),
        ("/v1/completions", {"prompt": [[1, 2], [3]]}),
        ("/v1/completions", {"prompt": "a", "n": 2}),
        ("/v1/completions", {"prompt": "a", "echo": True}),
        ("/v1/completions", {"prompt": "a", "prompt_logprobs": 1}),
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/completions", [1]),
    ],
)
def test_what_has_no_one_prompt_to_hand_over_goes_to_a_decode_server_as_it_is(path: str, body: Any) -> None:
    async def main() -> None:
        async with halves([recording], [recording_stream]) as both:
            await both.chat(body, path)
            assert both.prefill[0].requests == []
            assert await sent(both.decode[0]) == body

    asyncio.run(main())


@pytest.mark.parametrize("body", [{"prompt": "a", "n": 1, "echo": False, "best_of": None}, {"prompt": [1, 2]}])
def test_what_says_the_default_in_words_is_paired(body: dict[str, Any]) -> None:
    async def main() -> None:
        async with halves([saying({"kv_transfer_params": PARAMS})], [recording_stream]) as both:
            await both.chat(body, "/v1/completions")
            assert (await sent(both.decode[0]))["kv_transfer_params"] == PARAMS

    asyncio.run(main())


@pytest.mark.parametrize("bad", [full, breaking_after(0)])
def test_another_prefill_server_does_what_one_can_not(bad: Handler) -> None:
    async def main() -> None:
        async with halves([recording, recording], [recording_stream]) as both:
            await both.chat()
            [first] = [server for server in both.prefill if server.requests]
            first.handle = bad
            await both.chat()
            assert (await sent(both.decode[0], 1))["kv_transfer_params"] == PARAMS | {"for": "Hello"}
            assert await metric(both.running, both.client, "headway:router_retries_total") == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (full, "failed"),
        (breaking_after(0), "failed"),
        (saying({"error": {"message": "too long"}}, 400), "no_transfer"),
        (saying({"choices": [], "kv_transfer_params": None}), "no_transfer"),
        (saying({"choices": []}), "no_transfer"),
    ],
)
def test_without_a_prefill_server_s_work_the_decode_server_does_all(bad: Handler, reason: str) -> None:
    async def main() -> None:
        async with halves([bad], [recording_stream]) as both:
            assert await both.chat() == EVENT * 3 + DONE
            assert await sent(both.decode[0]) == CHAT
            assert await both.unpaired(reason) == 1

    asyncio.run(main())


def test_a_prefill_server_that_dies_under_32_requests_costs_none_of_them() -> None:
    dies = asyncio.Event()

    async def dying(request: web.Request) -> web.StreamResponse:
        await dies.wait()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def waiting(request: web.Request) -> web.StreamResponse:
        await dies.wait()
        return await recording(request)

    async def main() -> None:
        async with halves([dying, waiting], [recording_stream]) as both:
            asked = [asyncio.create_task(both.chat()) for _ in range(32)]
            await until(lambda: sum(len(server.requests) for server in both.prefill) == 32)
            assert both.prefill[0].requests, "one server has not room for all of them, whichever they belong to"
            dies.set()
            assert await asyncio.gather(*asked) == [EVENT * 3 + DONE] * 32
            assert await metric(both.running, both.client, "headway:router_open_requests") == 0
            assert all(["kv_transfer_params" in await sent(both.decode[0], number) for number in range(32)])

    asyncio.run(main())


def test_with_no_healthy_prefill_server_the_router_goes_on() -> None:
    async def main() -> None:
        async with halves([recording], [recording_stream]) as both:
            both.prefill[0].ping_status = 503
            assert both.running.router.prefill is not None
            await until(lambda: both.running.router.prefill.num_healthy == 0)  # type: ignore[union-attr]
            assert await both.chat() == EVENT * 3 + DONE
            assert (await both.unpaired("no_server"), len(both.prefill[0].requests)) == (1, 0)
            async with both.client.get(f"{both.running.url}/ping") as ping:
                assert (ping.status, (await ping.json())["healthy_prefill_servers"]) == (200, 0)

    asyncio.run(main())


def test_a_decode_server_that_dies_before_its_first_byte_costs_a_second_prefill() -> None:
    """The first one's KV cache may have been fetched, and be gone."""

    async def main() -> None:
        async with halves([recording], [breaking_after(0), recording_stream]) as both:
            assert await both.chat() == EVENT * 3 + DONE
            assert [len(server.requests) for server in both.decode] == [1, 1]
            assert len(both.prefill[0].requests) == 2
            assert all(server.num_open == 0 for server in both.running.router.fleet.servers)

    asyncio.run(main())


def test_a_decode_server_that_takes_no_connection_costs_no_second_prefill() -> None:
    async def main() -> None:
        gone = f"http://127.0.0.1:{closed_port()}"
        async with halves([recording], [recording_stream]) as both:
            fleet = both.running.router.fleet
            fleet.update([gone, both.decode[0].url])
            fleet.is_well(fleet.servers[0])  # it was, until now
            fleet.servers[1].num_open = 1  # so that the other one is the first to be asked
            assert await both.chat() == EVENT * 3 + DONE
            assert not fleet.servers[0].health.is_healthy
            assert len(both.prefill[0].requests) == 1
            assert await sent(both.decode[0]) == {**CHAT, "kv_transfer_params": PARAMS | {"for": "Hello"}}

    asyncio.run(main())


def test_a_stream_that_begins_with_an_error_is_asked_for_once_more() -> None:
    async def failing(request: web.Request) -> web.StreamResponse:
        if "kv_transfer_params" not in await request.json():
            return await events_of(request)
        answer = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await answer.prepare(request)
        await answer.write(b'data: {"error":{"message":"KV cache not loaded","code":500}}\n\n' + DONE)
        return answer

    async def main() -> None:
        async with halves([recording], [failing]) as both:
            assert await both.chat() == EVENT * 3 + DONE
            assert await both.unpaired("not_fetched") == 1

    asyncio.run(main())


@pytest.mark.parametrize("is_well_alone", [True, False])
def test_a_decode_server_whose_transfer_fails_is_asked_once_more_to_do_all(is_well_alone: bool) -> None:
    async def failing(request: web.Request) -> web.StreamResponse:
        if "kv_transfer_params" in await request.json() or not is_well_alone:
            return web.json_response({"error": {"message": "KV cache not loaded"}}, status=500)
        return await events_of(request)

    async def main() -> None:
        async with halves([recording], [failing, failing]) as both:
            async with both.client.post(f"{both.running.url}/v1/chat/completions", json=CHAT) as answer:
                assert answer.status == (200 if is_well_alone else 500)
                assert (b"not loaded" in await answer.read()) is not is_well_alone
            [decode] = [server for server in both.decode if server.requests]
            assert [await sent(decode, number) for number in range(2)] == [{**CHAT, "kv_transfer_params": PARAMS | {"for": "Hello"}}, CHAT]
            assert (len(decode.requests), len(both.prefill[0].requests)) == (2, 1)
            assert await both.unpaired("not_fetched") == 1

    asyncio.run(main())


def test_an_error_of_a_request_without_a_transfer_is_passed_on() -> None:
    async def main() -> None:
        async with halves([recording], [saying({"error": {"message": "broken"}}, 500)]) as both:
            async with both.client.post(f"{both.running.url}/v1/completions", json={"prompt": ["a", "b"]}) as answer:
                assert answer.status == 500
            assert len(both.decode[0].requests) == 1

    asyncio.run(main())


def own_words() -> list[tuple[str, bytes]]:
    asked = json.dumps({"prompt": "a", "kv_transfer_params": {"do_remote_prefill": True, "remote_host": "localhost"}})
    line = asked.encode()
    return [
        *((path, line) for path in ("/v1/completions", "/invocations", "/v1/responses", "/v1/any")),
        ("/v1/completions", line.replace(b"kv_", b"\\u006bv\\u005f")),
        ("/v1/completions", line.replace(b"{", b'{"n": 2, ', 1)),  # not paired
        ("/v1/completions", line.replace(b"{", b'{"temperature": NaN, ', 1)),  # JSON to Python's reader
        ("/v1/completions", asked.encode("utf-16")),  # the same
        ("/invocations", b'{"prompt": "a"}\n' + line),
        ("/invocations", b'{"prompt": "a"}\n' + line.replace(b"kv_", b"\\u006Bv_")),
    ]


def test_a_client_may_not_say_where_kv_is() -> None:
    async def main() -> None:
        async with halves([recording], [recording_stream]) as both:
            for path, body in own_words():
                async with both.client.post(f"{both.running.url}{path}", data=body) as answer:
                    assert answer.status == 400, (path, body)
                    assert (await answer.json())["error"]["param"] == "kv_transfer_params"
            assert both.prefill[0].requests == both.decode[0].requests == []

    asyncio.run(main())


def test_who_only_speaks_of_it_is_served() -> None:
    async def main() -> None:
        async with halves([recording], [recording_stream]) as both:
            said = 'What is "kv_transfer_params": {}? \u00e9'
            await both.chat({"messages": [{"role": "user", "content": said}], "kv_transfer_params": None})
            lines = "".join(json.dumps({"prompt": said}) + "\n" for _ in range(2))
            async with both.client.post(f"{both.running.url}/invocations", data=lines) as answer:
                assert answer.status == 200
            assert len(both.decode[0].requests) == 2

    asyncio.run(main())


class Announcing:
    """A prefill server that says where the KV will be, and computes until ``ends`` is set."""

    def __init__(self) -> None:
        self.ends = asyncio.Event()
        self.is_left = asyncio.Event()
        self.has_ended = asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        answer = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await answer.prepare(request)
        event = json.dumps({"choices": [], "kv_transfer_params": PARAMS}).encode()
        await answer.write(b": keep-alive\n\ndata: " + event[:20])
        await answer.write(event[20:] + b"\n\n")
        try:
            await self.ends.wait()
            await answer.write(EVENT + DONE)
        except asyncio.CancelledError:
            self.is_left.set()
            raise
        self.has_ended.set()
        return answer


def test_a_decode_server_is_asked_while_the_prompt_is_computed() -> None:
    async def main() -> None:
        prefill = Announcing()
        async with halves([prefill], [recording_stream]) as both:
            assert await both.chat() == EVENT * 3 + DONE
            assert (await sent(both.decode[0]))["kv_transfer_params"] == PARAMS
            name = f'headway:router_open_requests{{server="{both.prefill[0].url}"}}'
            assert await metric(both.running, both.client, name) == 1, "it computes"
            prefill.ends.set()
            await asyncio.wait_for(prefill.has_ended.wait(), 60)
            while await metric(both.running, both.client, name):
                await asyncio.sleep(0.01)

    asyncio.run(main())


@pytest.mark.parametrize("why", ["the client leaves", "the KV does not come"])
def test_a_prefill_that_nobody_waits_for_is_ended(why: str) -> None:
    async def decoding(request: web.Request) -> web.StreamResponse:
        if "kv_transfer_params" not in await request.json():
            return await events_of(request)
        if why == "the KV does not come":
            return web.json_response({"error": {"message": "KV cache not loaded"}}, status=500)
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> None:
        prefill = Announcing()
        async with halves([prefill], [decoding]) as both:
            asking = asyncio.create_task(both.chat())
            await until(lambda: both.decode[0].requests)
            if why == "the client leaves":
                asking.cancel()
            else:
                assert await asking == EVENT * 3 + DONE
            await asyncio.wait_for(prefill.is_left.wait(), 60)

    asyncio.run(main())


def test_prompts_that_begin_alike_meet_one_prefill_server() -> None:
    async def main() -> None:
        async with halves([recording, recording, recording], [recording_stream]) as both:
            for _ in range(4):
                await both.chat()
            assert sorted(len(server.requests) for server in both.prefill) == [0, 0, 4]

    asyncio.run(main())


def test_a_client_that_leaves_during_prefill_ends_it() -> None:
    has_ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        finally:
            has_ended.set()
        raise AssertionError

    async def main() -> None:
        async with halves([endless], [recording_stream]) as both:
            asking = asyncio.create_task(both.chat())
            await until(lambda: both.prefill[0].requests)
            asking.cancel()
            await asyncio.wait_for(has_ended.wait(), 60)
            assert both.decode[0].requests == []

    asyncio.run(main())


def test_fields_that_nobody_changes_stay_byte_for_byte() -> None:
    async def main() -> None:
        async with halves([saying({"kv_transfer_params": PARAMS})], [recording_stream]) as both:
            text = b'{"prompt": "\\u00e9 \xc3\xa9", "seed": 12345678901234567890, "temperature": 1.00}'
            async with both.client.post(f"{both.running.url}/v1/completions", data=text) as answer:
                await answer.read()
            got = (await both.decode[0].requests[0].read()).decode()
            assert '"prompt":"\\u00e9 é"' in got
            assert '"seed":12345678901234567890,"temperature":1.00' in got
            assert json.loads(got)["kv_transfer_params"] == PARAMS

    asyncio.run(main())
