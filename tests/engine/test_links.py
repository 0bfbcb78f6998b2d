"""The engine between several API processes, over real sockets: everyone gets their own, and one that has gone leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from headway.server.engine.links import EngineLinks, LinkAddresses
from headway.server.engine.messages import (
    AbortRequests,
    AddPoolRequests,
    AddRequest,
    DropClient,
    Phase,
    StepOutput,
    ToEngine,
    decode_from_engine,
    encode,
)
from headway.server.types import EngineStats, FinishReason, GenerateRequest, PoolingParams, PoolRequest, SamplingParams, TokenDelta


class Process:
    """An API process's ends."""

    def __init__(self, directory: Path, index: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        addresses = LinkAddresses.of(directory, 0, index)
        self._inbox, self._outbox = self._context.socket(zmq.PUSH), self._context.socket(zmq.PULL)
        self._inbox.bind(addresses.inbox)
        self._outbox.bind(addresses.outbox)
        self._outbox.setsockopt(zmq.RCVTIMEO, 60_000)
        self._inbox.setsockopt(zmq.SNDTIMEO, 10_000)

    def send(self, *messages: ToEngine) -> None:
        for message in messages:
            self._inbox.send(encode(message))

    def receive(self) -> object:
        return decode_from_engine(self._outbox.recv())

    def receive_ids(self) -> list[str]:
        step = self.receive()
        assert isinstance(step, StepOutput)
        return [delta.request_id for delta in step.deltas]

    def close(self) -> None:
        self._context.destroy(linger=0)


@contextmanager
def process(directory: Path, index: int) -> Iterator[Process]:
    made = Process(directory, index)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def links(tmp_path: Path) -> Iterator[EngineLinks]:
    made = EngineLinks(tmp_path, 0, 2)
    yield made
    made.close(linger_ms=0)


def add(request_id: str) -> AddRequest:
    return AddRequest(GenerateRequest(request_id, [1], SamplingParams(), 0.0))


def step(*request_ids: str, ends: bool = False) -> StepOutput:
    reason = FinishReason.LENGTH if ends else None
    return StepOutput([TokenDelta(request_id, [7], finish_reason=reason) for request_id in request_ids], EngineStats(num_steps=3))


def received(links: EngineLinks, count: int) -> list[ToEngine]:
    messages: list[ToEngine] = []
    while len(messages) < count:
        messages += [message for _, message in links.receive(wait=True)]
    return messages


def test_everyone_gets_their_own_deltas_and_the_statistics(tmp_path: Path, links: EngineLinks) -> None:
    with process(tmp_path, 0) as first, process(tmp_path, 1) as second:
        links.send_to_all(Phase("loading", 1.0))
        assert first.receive() == second.receive() == Phase("loading", 1.0)
        first.send(add("a"))
        second.send(add("b"), add("c"))
        received(links, 3)
        links.send_step(step("a", "b"))
        assert (first.receive_ids(), second.receive_ids()) == (["a"], ["b"])
        links.send_step(step("c", ends=True))
        assert (first.receive_ids(), second.receive_ids()) == ([], ["c"])
        assert links.drop(1) == ["b"]  # "c" has ended


def test_everyone_hears_how_many_of_their_own_requests_have_come_in(tmp_path: Path, links: EngineLinks) -> None:
    with process(tmp_path, 0) as first, process(tmp_path, 1) as second:
        texts = [PoolRequest(name, [1], PoolingParams("embed"), arrival_time=0.0) for name in ("b", "c")]
        first.send(add("a"), AbortRequests(["a"]))
        second.send(AddPoolRequests(texts))
        received(links, 3)
        links.send_step(step())
        assert [StepOutput([], EngineStats(num_steps=3), count) for count in (1, 2)] == [first.receive(), second.receive()]


def test_a_process_that_has_gone_leaves_nothing(tmp_path: Path, links: EngineLinks) -> None:
    with process(tmp_path, 0) as first:
        with process(tmp_path, 1) as second:
            second.send(add("b"))
            received(links, 1)
        assert links.drop(1) == ["b"]
        links.send_step(step("b", ends=True))  # its abort
        assert first.receive_ids() == []
        links.add(1)
        with process(tmp_path, 1) as third:
            links.send_step(step())
            assert third.receive_ids() == []
            third.send(add("b"))
            received(links, 1)
            links.send_step(step("b"))
            assert third.receive_ids() == ["b"]


def test_what_it_had_sent_before_is_not_heard_after_its_end(tmp_path: Path, links: EngineLinks) -> None:
    """Both wait in the sockets: the leader's word comes first, since its socket is read first."""
    with process(tmp_path, 0) as first, process(tmp_path, 1) as second:
        second.send(AbortRequests([]))
        received(links, 1)  # connected
        second.send(add("late"))
        first.send(DropClient(1))
        heard = []
        while DropClient(1) not in heard:
            for _, message in links.receive(wait=True):
                heard.append(message)
                if message == DropClient(1):
                    links.drop(1)
        for _, message in links.receive(wait=False):
            heard.append(message)
        links.send_step(step("late"))
        assert first.receive_ids() == []


def test_texts_that_came_together_are_their_sender_s(links: EngineLinks, tmp_path: Path) -> None:
    texts = [PoolRequest(name, [1], PoolingParams("embed"), arrival_time=0.0) for name in ("a", "b")]
    with process(tmp_path, 0) as first, process(tmp_path, 1) as second:
        second.send(AddPoolRequests(texts))
        assert [message for _, message in links.receive(wait=True)] == [AddPoolRequests(texts)]
        links.send_step(StepOutput([TokenDelta("a", finish_reason=FinishReason.STOP)], EngineStats()))
        assert (first.receive_ids(), second.receive_ids()) == ([], ["a"])
        assert links.drop(1) == ["b"]
