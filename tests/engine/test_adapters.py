"""Which adapter gets room in memory and on the device, and who waits for it: the policy alone, over an executor that keeps book."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from headway.server.engine.adapters import AdapterResidency
from headway.server.errors import AdapterError
from headway.server.types import AdapterRef, FinishReason, GenerateRequest, SamplingParams


class Books:
    """An executor. ``slow``: ids whose reading ends when the test says so."""

    def __init__(self, *slow: int) -> None:
        self.log: list[str] = []
        self.reading: dict[int, Future[None]] = {}
        self._slow = slow

    def read_adapter(self, adapter: AdapterRef) -> Future[None]:
        self.log.append(f"read {adapter.id}")
        future = self.reading[adapter.id] = Future()
        if adapter.id not in self._slow:
            future.set_result(None)
        return future

    def drop_adapter(self, adapter_id: int) -> None:
        self.log.append(f"drop {adapter_id}")

    def load_adapter(self, adapter_id: int) -> None:
        self.log.append(f"load {adapter_id}")

    def unload_adapter(self, adapter_id: int) -> None:
        self.log.append(f"unload {adapter_id}")

    def take_log(self) -> list[str]:
        log, self.log = self.log, []
        return log


class Bench:
    """Adapters 1 to 9 that somebody may ask for."""

    def __init__(self, *slow: int, max_loras: int, max_cpu_loras: int) -> None:
        self.now = 100.0
        self.books = Books(*slow)
        self.residency = AdapterResidency(self.books, max_loras, max_cpu_loras, clock=lambda: self.now)  # type: ignore[arg-type]
        for i in range(1, 10):
            self.residency.add(AdapterRef(i, f"a{i}", "/a"))
        self._num_requests = 0

    def ask(self, adapter_id: int, queue_timeout_s: float | None = None) -> str:
        """The id of a new request, which may run at once or not."""
        self._num_requests += 1
        request_id = f"{adapter_id}-{self._num_requests}"
        self.residency.holds(
            GenerateRequest(request_id, [1], SamplingParams(), self.now, adapter_id=adapter_id, queue_timeout_s=queue_timeout_s)
        )
        return request_id

    def released(self) -> list[str]:
        return [request.request_id for request in self.residency.release()]


def test_both_tiers_keep_what_was_used_last() -> None:
    bench = Bench(max_loras=1, max_cpu_loras=2)
    for adapter_id in (1, 2, 1, 3, 1):
        name = bench.ask(adapter_id)
        assert bench.released() == [name]
        bench.residency.forget(name)
    expected = ["read 1", "load 1", "read 2", "unload 1", "load 2", "unload 2", "load 1"]  # 1 was still in the host's memory
    expected += ["drop 2", "read 3", "unload 1", "load 3", "unload 3", "load 1"]
    assert bench.books.take_log() == expected
    assert bench.residency.stats.loaded == (1,)


def test_an_adapter_in_use_keeps_its_place_and_the_next_one_waits_for_it() -> None:
    bench = Bench(max_loras=1, max_cpu_loras=2)
    first = bench.ask(1)
    assert bench.released() == [first]
    second, third = bench.ask(2), bench.ask(2)
    assert bench.released() == []
    assert bench.books.take_log() == ["read 1", "load 1", "read 2"], "it is read meanwhile"
    assert (len(bench.residency), bench.residency.stats.waiting, bench.residency.stats.running) == (2, (2,), (1,))
    bench.residency.forget(first)
    assert bench.released() == [second, third]
    assert bench.books.take_log() == ["unload 1", "load 2"]
    assert not bench.residency.has_work


def test_an_adapter_that_is_read_slowly_holds_up_no_other() -> None:
    bench = Bench(1, max_loras=2, max_cpu_loras=4)
    slow, quick = bench.ask(1), bench.ask(2)
    assert bench.released() == [quick]
    bench.now += 60
    again = bench.residency.holds(GenerateRequest("again", [1], SamplingParams(), bench.now, adapter_id=2))
    assert not again, "one that is on the device runs at once"
    bench.books.reading[1].set_result(None)
    assert bench.released() == [slow]


def test_requests_for_adapters_on_the_device_pass_one_that_waits_for_a_while_only() -> None:
    bench = Bench(max_loras=1, max_cpu_loras=2)
    first = bench.ask(1)
    bench.released()
    starved = bench.ask(2)
    bench.released()
    assert not bench.residency.holds(GenerateRequest("passes", [1], SamplingParams(), bench.now, adapter_id=1))
    bench.now += 1.5
    late = bench.ask(1)
    assert bench.released() == []
    for name in (first, "passes"):
        bench.residency.forget(name)
    assert bench.released() == [starved]
    bench.residency.forget(starved)
    assert bench.released() == [late]


def test_pinned_adapters_keep_their_place() -> None:
    bench = Bench(max_loras=2, max_cpu_loras=2)
    answers: list[Exception | None] = []
    bench.residency.load(1, True, answers.append)
    bench.released()
    assert answers == [None]
    for adapter_id in (2, 3, 4):
        bench.residency.forget(name := bench.ask(adapter_id))
        name = bench.ask(adapter_id)
        assert bench.released() == [name]
        bench.residency.forget(name)
    assert set(bench.residency.stats.loaded) == {1, 4}


def test_what_is_wrong_with_an_adapter_is_told_to_all_who_wait_for_it_and_to_nobody_after_them() -> None:
    bench = Bench(1, max_loras=1, max_cpu_loras=1)
    answers: list[Exception | None] = []
    bench.residency.load(1, False, answers.append)
    name = bench.ask(1)
    bench.released()
    bench.books.reading[1].set_exception(AdapterError("It is odd."))
    assert bench.released() == []
    [delta] = bench.residency.take_ended()
    assert (delta.request_id, delta.error, delta.finish_reason, delta.is_request_fault) == (name, "It is odd.", FinishReason.ERROR, True)
    assert [str(answer) for answer in answers] == ["It is odd."]
    assert bench.books.take_log() == ["read 1", "drop 1"]
    again = bench.ask(1)
    bench.released()
    bench.books.reading[1].set_result(None)
    assert bench.released() == [again]


def test_a_request_that_waits_for_an_adapter_may_be_aborted_and_expires() -> None:
    bench = Bench(1, max_loras=1, max_cpu_loras=1)
    aborted, expiring, last = bench.ask(1), bench.ask(1, queue_timeout_s=5), bench.ask(1)
    bench.released()
    assert [delta.finish_reason for delta in bench.residency.abort([aborted, "unknown"])] == [FinishReason.ABORT]
    bench.now += 6
    bench.released()
    [delta] = bench.residency.take_ended()
    assert (delta.request_id, delta.finish_reason) == (expiring, FinishReason.QUEUE_TIMEOUT)
    assert bench.residency.request_ids() == [last]
    with pytest.raises(AdapterError, match="are open"):
        bench.residency.remove(1)
    bench.books.reading[1].set_result(None)
    assert bench.released() == [last]
    bench.residency.forget(last)
    bench.residency.remove(1)
    assert bench.books.take_log() == ["read 1", "load 1", "unload 1", "drop 1"]


def test_who_waits_when_the_last_place_is_pinned_hears_of_it_and_keeps_no_room() -> None:
    bench = Bench(max_loras=1, max_cpu_loras=2)
    running, waiting = bench.ask(1), bench.ask(2)
    assert bench.released() == [running]
    bench.residency.pin(1, True)
    bench.residency.forget(running)
    assert bench.released() == []
    [delta] = bench.residency.take_ended()
    assert (delta.request_id, delta.finish_reason, delta.is_request_fault) == (waiting, FinishReason.ERROR, True)
    assert "is pinned by now (--max-loras " in str(delta.error)
    assert not bench.residency.has_work
    bench.residency.pin(1, False)
    after = bench.ask(3)
    assert bench.released() == [after]
