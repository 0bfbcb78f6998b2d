"""What an engine takes on at a time, and when it says that there will be room."""

from __future__ import annotations

import pytest

from headway.server.counts import Counts
from headway.server.engine.admission import Admission
from headway.server.errors import QueueFull, RequestError
from headway.server.types import GenerateRequest, SamplingParams


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def requests(*lengths: int, name: str = "r") -> list[GenerateRequest]:
    return [GenerateRequest(f"{name}{i}", [1] * length, SamplingParams(), 0.0) for i, length in enumerate(lengths)]


def refusal(admission: Admission, num_requests: int = 1, num_tokens: int = 1) -> QueueFull:
    with pytest.raises(QueueFull) as caught:
        admission.check(num_requests, num_tokens)
    return caught.value


def test_requests_are_open_until_they_end() -> None:
    admission = Admission(2, None, Counts.alone())
    admission.admit(requests(5, 5))
    full = refusal(admission)
    assert full.reason == "max_num_queued_reqs"
    assert str(full) == "2 requests open, and --max-num-queued-reqs allows 2: try again later."
    admission.on_tokens("r0")
    refusal(admission)
    for _ in range(2):
        admission.on_end("r0")
    admission.check(1, 10**9)
    refusal(admission, num_requests=2)


def test_prompts_count_until_their_first_token() -> None:
    admission = Admission(None, 100, Counts.alone())
    admission.admit(requests(60, 30))
    admission.check(1, 10)
    full = refusal(admission, num_tokens=11)
    assert full.reason == "max_num_queued_tokens"
    assert "90 prompt tokens to be computed, and --max-num-queued-tokens allows 100" in str(full)
    for _ in range(2):
        admission.on_tokens("r0")
    admission.check(1, 70)
    refusal(admission, num_tokens=71)
    admission.on_end("r1")  # before its first token
    admission.check(1, 100)


def test_all_or_none() -> None:
    admission = Admission(3, 100, Counts.alone())
    admission.admit(requests(10, 10))
    for more in (requests(1, 1, name="x"), requests(81, name="x")):
        with pytest.raises(QueueFull):
            admission.admit(more)
    admission.admit(requests(80, name="y"))


def test_what_would_never_be_admitted_is_the_request_s_own_fault() -> None:
    with pytest.raises(RequestError, match=r"asks for 3 answers at once; this server takes 2 .*max-num-queued-reqs") as caught:
        Admission(2, None, Counts.alone()).check(3, 1)
    assert caught.value.param == "n"
    with pytest.raises(RequestError, match=r"prompts have 101 tokens.*100 at a time \(--max-num-queued-tokens\)"):
        Admission(None, 100, Counts.alone()).check(1, 101)


def test_no_limits() -> None:
    admission = Admission(None, None, Counts.alone())
    admission.admit(requests(*[10**5] * 100))
    admission.check(1000, 10**9)


def test_retry_after_is_told_by_what_has_ended_lately() -> None:
    clock = Clock()
    admission = Admission(10, None, Counts.alone(), clock)
    admission.admit(requests(*[1] * 10))
    assert refusal(admission).retry_after_s == 1  # nothing is known yet
    for index in range(4):
        clock.now += 5
        admission.on_end(f"r{index}")
    clock.now += 5  # 4 in 20 s
    assert refusal(admission, num_requests=5).retry_after_s == 5
    assert refusal(admission, num_requests=7).retry_after_s == 15
    clock.now += 10_000
    assert refusal(admission, num_requests=9).retry_after_s == 60


def test_retry_after_for_tokens_is_told_by_prompts_that_were_computed() -> None:
    clock = Clock()
    admission = Admission(None, 1000, Counts.alone(), clock)
    admission.admit(requests(500, 500))
    admission.on_tokens("r0")
    clock.now += 10  # 500 tokens in 10 s
    assert refusal(admission, num_tokens=700).retry_after_s == 4
