"""A client that leaves gives back what its request holds in a real engine, within one step, whichever API it came by."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from api_server import ApiServer
from stepped_engine import SteppedEngine
from tiny_models import make_tiny_model
from tiny_tokenizers import byte_level_tokenizer

from headway.server.types import EngineStats

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 200}
PATHS = {
    "/v1/chat/completions": CHAT | {"n": 2, "ignore_eos": True},
    "/v1/completions": {"prompt": ["x", "y"], "max_tokens": 200, "ignore_eos": True},
    "/v1/messages": CHAT | {"seed": 0},  # which does not end soon
    "/v1/responses": {"input": "x", "max_output_tokens": 200, "ignore_eos": True},
}
ENDS = {"/v1/messages": "message_stop", "/v1/responses": "response.incomplete"}  # else [DONE]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    tokenizer = byte_level_tokenizer()
    files = make_tiny_model("llama", tmp_path_factory.mktemp("tiny"), vocab_size=tokenizer.vocab_size, num_hidden_layers=1)
    with ApiServer(engine=SteppedEngine(tokenizer, files)) as server:
        yield server


@pytest.fixture
def server(shared: ApiServer) -> ApiServer:
    shared.engine.requests.clear()
    shared.engine.aborted_ids.clear()
    return shared


def step(server: ApiServer) -> EngineStats:
    engine = server.engine
    assert isinstance(engine, SteppedEngine)
    done: list[EngineStats] = []
    server.on_loop(lambda: done.append(engine.step()))
    server.wait_for(lambda: bool(done))
    return done[0]


@pytest.mark.parametrize("num_steps", [0, 3])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_within_a_step_its_blocks_are_free(server: ApiServer, path: str, stream: bool, num_steps: int) -> None:
    body = json.dumps(PATHS[path] | {"stream": stream}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.settimeout(60)
        raw.sendall(head + body)
        num_sequences = 1 if path in ENDS else 2
        server.wait_for(lambda: len(server.engine.requests) == num_sequences)
        if stream:
            assert raw.recv(12) == b"HTTP/1.1 200"
        for _ in range(num_steps):
            stats = step(server)
        if num_steps:
            assert stats.num_running == num_sequences
            assert stats.num_blocks_used >= num_sequences
    server.wait_for(lambda: len(server.engine.aborted_ids) == num_sequences)
    stats = step(server)
    assert (stats.num_running, stats.num_waiting, stats.num_blocks_used) == (0, 0, 0)


@pytest.mark.parametrize("path", PATHS)
def test_who_stays_gets_the_whole_answer(server: ApiServer, path: str) -> None:
    """So that the engine of these tests is one that answers."""
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    with server.client.stream("POST", path, json=PATHS[path] | {"stream": True, limit: 3}) as response:
        for _ in range(4):
            step(server)
        text = response.read().decode()
    last = text.removesuffix("\n\n").rpartition("\n\n")[2]
    assert last.startswith(f"event: {ENDS[path]}\n") if path in ENDS else last == "data: [DONE]"
    assert not server.engine.aborted_ids
