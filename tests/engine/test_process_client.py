"""The API process's end of an engine, over real sockets: what it hears, and how an engine's end reaches who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from headway.server.config.overload import OverloadConfig
from headway.server.counts import Counts
from headway.server.engine.links import LinkAddresses
from headway.server.engine.messages import Died, FromEngine, Phase, encode
from headway.server.engine.process_client import ProcessEngineClient

_SHORT_S = 0.02  # of the half second that last words have


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[zmq.Socket[bytes]]:
    """What sends for an engine process."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sender = context.socket(zmq.PUSH)
    sender.connect(LinkAddresses.of(tmp_path, 0).outbox)
    yield sender
    context.destroy(linger=0)


def _client(directory: Path, phases: list[str]) -> ProcessEngineClient:
    addresses = LinkAddresses.of(directory, 0)
    return ProcessEngineClient(addresses, Counts.alone(), overload=OverloadConfig(), on_phase=lambda name, _: phases.append(name))


def _send(engine: zmq.Socket[bytes], message: FromEngine) -> None:
    engine.send(encode(message))


@pytest.mark.parametrize("message_before", [False, True])
def test_last_words_that_come_behind_the_engines_end_are_heard(engine: zmq.Socket[bytes], tmp_path: Path, message_before: bool) -> None:
    phases: list[str] = []

    async def live() -> str | None:
        client = _client(tmp_path, phases)
        gone = asyncio.get_running_loop().create_future()
        receiving = asyncio.create_task(client.run(gone))
        if message_before:  # its receipt and the end in one turn of the loop
            _send(engine, Phase("loading", 0.0))
            while not phases:
                await asyncio.sleep(0)
        gone.set_result("it ended somehow")
        await asyncio.sleep(_SHORT_S)
        _send(engine, Died("its own words"))
        await receiving
        client.close()
        return client.dead_cause

    assert asyncio.run(asyncio.wait_for(live(), 10)) == "its own words"


def test_an_end_without_last_words_is_told_as_it_was_seen(tmp_path: Path) -> None:
    async def live() -> str | None:
        client = _client(tmp_path, [])
        gone = asyncio.get_running_loop().create_future()
        gone.set_result("it ended somehow")
        await client.run(gone)
        client.close()
        return client.dead_cause

    assert asyncio.run(asyncio.wait_for(live(), 10)) == "it ended somehow"
