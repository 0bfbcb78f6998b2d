"""The server that `benchmarks/router.py --bare` measures the router before: its answers have as many tokens as were asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bare_server(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bare_server

    return bare_server


def test_a_stream_has_an_event_for_each_token_and_its_connection_goes_on(bare_server: Any) -> None:
    async def main() -> None:
        async with (
            await asyncio.start_server(lambda reader, writer: bare_server._answer(reader, writer, 0), "127.0.0.1", 0) as server,
            aiohttp.ClientSession() as client,
        ):
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/completions"
            for num_tokens in (3, 5):
                async with client.post(url, data=b'{"max_tokens":%d,"stream":true}' % num_tokens) as answer:
                    assert (await answer.read()).count(b"data: {") == num_tokens
            async with client.post(url, data=b'{"max_tokens":3}') as answer:
                assert len((await answer.json())["choices"]) == 1

    asyncio.run(main())
