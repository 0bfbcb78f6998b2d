"""What a request's handler gets of its deltas, and what the engine hears when the handler or the time ends it."""

from __future__ import annotations

import asyncio

from headway.server.engine.request_stream import RequestStream
from headway.server.types import FinishReason, TokenDelta


class Closes(list[bool]):
    """Whether the request had ended, for each call."""

    def __call__(self, request_id: str, has_ended: bool) -> None:
        assert request_id == "r"
        self.append(has_ended)


def delta(*ids: int, end: FinishReason | None = None) -> TokenDelta:
    return TokenDelta("r", list(ids), finish_reason=end)


def read(stream: RequestStream) -> list[TokenDelta]:
    async def main() -> list[TokenDelta]:
        return [each async for each in stream]

    return asyncio.run(asyncio.wait_for(main(), 60))


def test_a_time_out_comes_behind_what_has_arrived_and_ends_the_request_at_once() -> None:
    closes = Closes()
    stream = RequestStream("r", closes)
    stream.put(delta(1))
    stream.time_out("too long")
    stream.time_out("again")
    assert closes == [False]  # whether or not anybody reads
    first, last = read(stream)
    assert first.token_ids == [1]
    assert (last.finish_reason, last.error, last.token_ids) == (FinishReason.TIMEOUT, "too long", [])


def test_a_time_out_does_nothing_to_what_has_ended() -> None:
    closes = Closes()
    stream = RequestStream("r", closes)
    stream.put(delta(1))
    stream.put(delta(2, end=FinishReason.LENGTH))
    stream.time_out("too long")  # the answer is here, only its reader is slow
    assert closes == []
    assert read(stream)[-1].finish_reason is FinishReason.LENGTH
    assert closes == [True]
    stream.time_out("too long")
    assert closes == [True]


def test_a_reader_that_waits_hears_of_the_time_out() -> None:
    async def main() -> TokenDelta:
        stream = RequestStream("r", Closes())
        reading = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        stream.time_out("too long")
        return await reading

    assert asyncio.run(asyncio.wait_for(main(), 60)).finish_reason is FinishReason.TIMEOUT
