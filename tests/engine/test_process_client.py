"""The API process's end of an engine, over real sockets: what it hears, and how an engine's end reaches who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from headway.server.counts import Counts
from headway.server.engine import process_client
from headway.server.engine.admission import Admission
from headway.server.engine.data_parallel.policy import Load
from headway.server.engine.links import LinkAddresses
from headway.server.engine.messages import Died, FromEngine, Phase, StepOutput, encode
from headway.server.engine.process_client import ProcessEngineClient
from headway.server.types import EngineStats, GenerateRequest, SamplingParams

_SHORT_S = 0.02  # of the time that last words have


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[zmq.Socket[bytes]]:
    """What sends for an engine process."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sender = context.socket(zmq.PUSH)
    sender.connect(LinkAddresses.of(tmp_path, 0, 0).outbox)
    yield sender
    context.destroy(linger=0)


class Heard:
    """An engine's client, and what it tells."""

    def __init__(self, directory: Path) -> None:
        self.phases: list[str] = []
        self.causes: list[str] = []
        self.client = ProcessEngineClient(
            LinkAddresses.of(directory, 0, 0),
            Admission(None, None, Counts.alone()),
            0,
            on_phase=lambda name, _: self.phases.append(name),
            on_ready=lambda _: None,
            on_end=self.causes.append,
        )


def _send(engine: zmq.Socket[bytes], message: FromEngine) -> None:
    engine.send(encode(message))


@pytest.mark.parametrize("message_before", [False, True])
def test_last_words_that_come_behind_the_engines_end_are_heard(
    engine: zmq.Socket[bytes], tmp_path: Path, message_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_client, "_LAST_WORDS_S", 60.0)

    async def live() -> list[str]:
        heard = Heard(tmp_path)
        gone = asyncio.get_running_loop().create_future()
        receiving = asyncio.create_task(heard.client.run(gone))
        if message_before:  # its receipt and the end in one turn of the loop
            _send(engine, Phase("loading", 0.0))
            while not heard.phases:
                await asyncio.sleep(0)
        gone.set_result("it ended somehow")
        await asyncio.sleep(_SHORT_S)
        _send(engine, Died("its own words"))
        await receiving
        heard.client.close()
        return heard.causes

    assert asyncio.run(asyncio.wait_for(live(), 60)) == ["its own words"]


def test_an_end_without_last_words_is_told_as_it_was_seen(tmp_path: Path) -> None:
    async def live() -> list[str]:
        heard = Heard(tmp_path)
        gone = asyncio.get_running_loop().create_future()
        gone.set_result("it ended somehow")
        await heard.client.run(gone)
        heard.client.close()
        return heard.causes

    assert asyncio.run(asyncio.wait_for(live(), 60)) == ["it ended somehow"]


def test_its_load_is_what_it_reported_and_what_it_had_not_received_by_then(engine: zmq.Socket[bytes], tmp_path: Path) -> None:
    async def live() -> list[Load]:
        client = Heard(tmp_path).client
        loads = []
        for name in ("a", "b", "c"):
            client.generate(GenerateRequest(name, [1], SamplingParams(), 0.0))
        loads.append(client.load)
        told = asyncio.Event()
        client.watch_steps(lambda _: told.set())
        receiving = asyncio.create_task(client.run(asyncio.get_running_loop().create_future()))
        stats = EngineStats(num_running=1, num_waiting=4, num_blocks_used=1, num_blocks_total=4)
        _send(engine, StepOutput([], stats, num_received=2))
        await told.wait()
        loads.append(client.load)
        receiving.cancel()
        client.die("the test is over")
        client.close()
        return loads

    assert asyncio.run(asyncio.wait_for(live(), 60)) == [Load(num_sent=3), Load(1, 4, 1, 0.25)]
