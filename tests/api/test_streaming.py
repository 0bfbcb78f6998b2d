"""The parts that streams are made of: merging, coalescing, closing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from api_server import ApiServer
from fake_engine import FakeEngine
from tiny_tokenizers import byte_level_tokenizer

from headway.server.api.serving.merge import Arrivals, merged
from headway.server.api.stream import ChunkStream
from headway.server.types import GenerateRequest, SamplingParams


@pytest.mark.parametrize("stop", [[], ["o w"]])
def test_deltas_that_wait_go_out_as_one_chunk(server: ApiServer, stop: list[str]) -> None:
    server.engine.is_bursty = True
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "logprobs": True, "stop": stop}
    lines = [line for line in server.post("/v1/chat/completions", body).text.split("\n\n") if line.startswith("data: {")]
    role, everything = (json.loads(line.removeprefix("data: "))["choices"][0] for line in lines)
    assert role["delta"] == {"role": "assistant", "content": ""}
    assert everything["delta"]["content"] == ("hell" if stop else "hello world")
    assert everything["finish_reason"] == "stop"
    assert "".join(entry["token"] for entry in everything["logprobs"]["content"]).startswith("hello w")


def streams_of(engine: FakeEngine, num: int) -> list[Any]:
    return engine.generate([GenerateRequest(f"r{i}", [1], SamplingParams(max_tokens=5 + i), 0.0) for i in range(num)])


@pytest.mark.parametrize("num", [1, 2, 5])
def test_merged_streams_lose_nothing_and_keep_order(num: int) -> None:
    async def main() -> None:
        engine = FakeEngine(byte_level_tokenizer(), text="0123456789abcdef")
        seen: dict[int, list[int]] = {i: [] for i in range(num)}
        async for arrivals in merged(streams_of(engine, num)):
            for index, deltas in arrivals:
                for delta in deltas:
                    seen[index] += delta.token_ids
        assert seen == {i: engine.output_of(request) for i, request in enumerate(engine.requests)}
        assert engine.num_open_requests == 0

    asyncio.run(main())


def test_closing_a_merge_leaves_no_task() -> None:
    async def main() -> None:
        engine = FakeEngine(byte_level_tokenizer())
        merge: AsyncGenerator[Arrivals, None] = merged(streams_of(engine, 4))
        await anext(merge)
        await merge.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_client_that_left_before_the_first_event_closes_all_the_same() -> None:
    closed = []

    async def chunks() -> AsyncGenerator[list[bytes], None]:
        yield [b"1"]  # pragma: no cover

    async def on_close() -> None:
        closed.append(True)

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await asyncio.Event().wait()  # the socket takes nothing any more

    asyncio.run(ChunkStream(chunks(), on_close, silence_s=15)({"type": "http"}, receive, send))
    assert closed == [True]
