"""What the store keeps: by count, bytes and age."""

from __future__ import annotations

import asyncio

import pytest

from headway.server.api.responses_store import EventLog, ResponsesStore, StoredResponse
from headway.server.config.responses import ResponsesConfig
from headway.server.errors import RequestError, ResponseNotFound

ME = b"me"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def stored(name: str, num_bytes: int = 100, owner: bytes = ME) -> StoredResponse:
    return StoredResponse(name, owner, b"[]", b"[]", b"x" * (num_bytes - 4))


def kept(store: ResponsesStore, *names: str) -> list[str]:
    return [name for name in names if store.ended(ME, name) is not None]


def make(clock: Clock | None = None, **options: float) -> ResponsesStore:
    return ResponsesStore(ResponsesConfig.model_validate(options), is_on=True, clock=clock or Clock())


def test_the_least_recently_used_goes_first() -> None:
    store = make(max_stored_responses=3)
    for name in "abc":
        store.keep(stored(name))
    store.find(ME, "a")
    store.keep(stored("d"))
    assert kept(store, *"abcd") == ["a", "c", "d"]


def test_bytes_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    store = make(max_stored_response_bytes=1024)
    for name in "abc":
        store.keep(stored(name, 400))
    assert kept(store, *"abc") == ["b", "c"]
    store.keep(stored("large", 1025))
    assert kept(store, "b", "c", "large") == ["b", "c"]
    assert "--max-stored-response-bytes" in caplog.text


def test_events_count() -> None:
    async def with_events() -> StoredResponse:
        events = EventLog()
        events.add([b"x" * 2000])
        return StoredResponse("a", ME, b"[]", b"[]", b"{}", events=events)

    store = make(max_stored_response_bytes=1024)
    store.keep(asyncio.run(with_events()))
    assert not kept(store, "a")


def test_age_is_bounded() -> None:
    clock = Clock()
    store = make(clock, stored_response_ttl=10)
    store.keep(stored("a"))
    clock.now = 9.0
    store.keep(stored("b"))
    assert kept(store, "a", "b") == ["a", "b"]
    clock.now = 10.0
    assert kept(store, "a", "b") == ["b"]
    with pytest.raises(ResponseNotFound):
        store.find(ME, "a")


def test_others_find_nothing() -> None:
    store = make()
    store.keep(stored("a"))
    for look in (store.find, store.previous):
        with pytest.raises(ResponseNotFound):
            look(b"you", "a")
    assert store.ended(b"you", "a") is None
    store.forget(stored("a"))
    store.forget(stored("a"))
    assert not kept(store, "a")


def test_a_store_that_is_off_refuses() -> None:
    store = ResponsesStore(ResponsesConfig(), is_on=False)
    with pytest.raises(RequestError, match="previous_response_id"):
        store.previous(ME, "a")


def test_an_event_log_has_any_number_of_readers() -> None:
    async def read(log: EventLog, start: int) -> list[bytes]:
        return [event async for events in log.follow(start) for event in events]

    async def run() -> None:
        log = EventLog()
        readers = [asyncio.create_task(read(log, start)) for start in (0, 1, 5)]
        for number in range(3):
            log.add([b"%d" % number])
            await asyncio.sleep(0)
        log.end()
        assert await asyncio.gather(*readers) == [[b"0", b"1", b"2"], [b"1", b"2"], []]
        assert await read(log, 2) == [b"2"]

    asyncio.run(run())
