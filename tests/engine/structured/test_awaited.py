"""Requests that wait for their grammars."""

from __future__ import annotations

import weakref
from concurrent.futures import Future
from typing import Any

from headway.server.engine.structured.awaited import AwaitedGrammars
from headway.server.types import FinishReason, GenerateRequest, Grammar, SamplingParams


class Compiler:
    """Of the executor, what is asked for here. Grammars are done when the test says so."""

    def __init__(self) -> None:
        self.compiling: dict[str, Future[Any]] = {}

    def compile_grammar(self, grammar: Grammar) -> Future[Any]:
        return self.compiling.setdefault(grammar.source, Future())


def _request(number: int, source: str) -> GenerateRequest:
    return GenerateRequest(f"r{number}", [1], SamplingParams(grammar=Grammar("regex", source)), arrival_time=float(number))


def test_they_are_released_in_the_order_of_arrival_whatever_is_done_first() -> None:
    compiler = Compiler()
    awaited = AwaitedGrammars(compiler)  # type: ignore[arg-type]
    requests = [_request(number, source) for number, source in enumerate("abcab")]
    assert all(awaited.holds(request) for request in requests)
    assert awaited.release() == []
    compiler.compiling["b"].set_result(None)
    compiler.compiling["a"].set_result(None)
    assert awaited.release() == [requests[at] for at in (0, 1, 3, 4)]
    assert awaited.release() == []
    assert awaited.request_ids() == ["r2"]
    assert not awaited.holds(requests[0])


def test_one_that_was_aborted_is_not_released() -> None:
    compiler = Compiler()
    awaited = AwaitedGrammars(compiler)  # type: ignore[arg-type]
    for number in range(2):
        awaited.holds(_request(number, "a"))
    assert [delta.finish_reason for delta in awaited.abort(["r0"])] == [FinishReason.ABORT]
    compiler.compiling["a"].set_result(None)
    assert [request.request_id for request in awaited.release()] == ["r1"]
    assert len(awaited) == 0


class Prompt(list[int]):
    """Can be watched."""


def test_a_grammar_that_is_kept_keeps_no_request() -> None:
    """The compiler keeps the latest ones, and a future its callbacks."""
    compiler = Compiler()
    awaited = AwaitedGrammars(compiler)  # type: ignore[arg-type]
    prompts = []
    for number in range(2):
        prompt = Prompt([1])
        prompts.append(weakref.ref(prompt))
        sampling = SamplingParams(grammar=Grammar("regex", "a"))
        assert awaited.holds(GenerateRequest(f"r{number}", prompt, sampling, arrival_time=0.0))
        del prompt
    awaited.abort(["r0"])
    compiler.compiling["a"].set_result(None)
    assert len(awaited.release()) == 1
    for number in range(2):
        awaited.forget(f"r{number}")
    assert [prompt() for prompt in prompts] == [None, None]
