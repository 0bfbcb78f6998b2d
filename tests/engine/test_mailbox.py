from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from headway.server.engine.mailbox import Mailbox

Ends = tuple[zmq.Socket[bytes], zmq.Socket[bytes]]


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    """(what sends, what receives)"""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sender, receiver = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    receiver.bind(f"ipc://{tmp_path}/box")
    sender.connect(f"ipc://{tmp_path}/box")
    yield sender, receiver
    sender.close(0)
    receiver.close(0)
    context.term()


def test_messages_come_in_order_whether_or_not_somebody_waits(ends: Ends) -> None:
    sender, receiver = ends

    async def take_all() -> list[bytes | None]:
        mailbox = Mailbox(receiver)
        waiting = asyncio.create_task(mailbox.take())
        await asyncio.sleep(0)
        for number in range(1000):
            sender.send(b"%d" % number)
        taken = [await waiting, *[await mailbox.take() for _ in range(999)]]
        mailbox.close()
        return taken

    assert asyncio.run(asyncio.wait_for(take_all(), 60)) == [b"%d" % number for number in range(1000)]


def test_a_ring_ends_one_wait_and_loses_no_message(ends: Ends) -> None:
    sender, receiver = ends

    async def ring() -> tuple[bytes | None, ...]:
        mailbox = Mailbox(receiver)
        waiting = asyncio.create_task(mailbox.take())
        await asyncio.sleep(0)
        mailbox.ring()
        first = await waiting
        waiting = asyncio.create_task(mailbox.take())
        await asyncio.sleep(0)
        sender.send(b"late")
        second = await waiting
        mailbox.ring()  # nobody waits: the next one that finds nothing hears of it
        third = await mailbox.take()
        mailbox.close()
        return first, second, third

    assert asyncio.run(asyncio.wait_for(ring(), 60)) == (None, b"late", None)


def test_a_wait_ends_with_its_time(ends: Ends) -> None:
    async def wait() -> bytes | None:
        mailbox = Mailbox(ends[1])
        taken = await mailbox.take(at_most_s=0.01)
        mailbox.close()
        return taken

    assert asyncio.run(asyncio.wait_for(wait(), 60)) is None


def test_closing_ends_the_wait_without_touching_the_socket(ends: Ends) -> None:
    _, receiver = ends

    async def close() -> bytes | None:
        mailbox = Mailbox(receiver)
        waiting = asyncio.create_task(mailbox.take())
        await asyncio.sleep(0)
        mailbox.close()
        receiver.close(0)
        mailbox.close()
        return await waiting

    assert asyncio.run(asyncio.wait_for(close(), 60)) is None
