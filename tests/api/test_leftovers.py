"""What requests leave behind: nothing large may wait for the collector of cyclic garbage, which comes by seldom (server/garbage.py)."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from api_server import ApiServer

from headway.server.api.serving.generate import Generation

CHAT = {"messages": [{"role": "user", "content": "hello"}]}
REQUESTS = {
    "chat": ("/v1/chat/completions", CHAT),
    "chat, streamed": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "chat, two choices, streamed": ("/v1/chat/completions", {**CHAT, "n": 2, "stream": True}),
    "completions": ("/v1/completions", {"prompt": "hello"}),
    "completions, streamed": ("/v1/completions", {"prompt": "hello", "stream": True}),
    "responses": ("/v1/responses", {"input": "hello", "store": False}),
    "responses, streamed": ("/v1/responses", {"input": "hello", "store": False, "stream": True}),
    "messages": ("/v1/messages", {**CHAT, "max_tokens": 20}),
    "messages, streamed": ("/v1/messages", {**CHAT, "max_tokens": 20, "stream": True}),
}


@pytest.fixture(scope="module")
def shared() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def server(shared: ApiServer) -> Iterator[ApiServer]:
    """While the collector is switched off."""
    gc.collect(0)
    gc.disable()
    yield shared
    shared.engine.fail_after, shared.engine.queue_timed_out = None, False
    shared.on_loop(shared.engine.gate.set)
    gc.enable()


def _wait_until_none_is_kept(server: ApiServer) -> None:
    server.wait_for(lambda: all(type(thing) is not Generation for thing in gc.get_objects(generation=0)))


@pytest.mark.parametrize("end", ["well", "failed", "waited in vain"])
@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_request_is_gone_once_it_has_ended(server: ApiServer, request_name: str, end: str) -> None:
    path, body = REQUESTS[request_name]
    server.engine.fail_after = 3 if end == "failed" else None
    server.engine.queue_timed_out = end == "waited in vain"
    server.post(path, body)
    assert server.engine.requests
    _wait_until_none_is_kept(server)


def test_a_stream_is_gone_once_its_client_has_left(server: ApiServer) -> None:
    server.on_loop(server.engine.gate.clear)
    path, body = REQUESTS["chat, streamed"]
    with server.client.stream("POST", path, json=body):
        pass
    server.wait_for(lambda: not server.engine.open_ids)
    _wait_until_none_is_kept(server)
