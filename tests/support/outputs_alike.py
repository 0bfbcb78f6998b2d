"""Two engines that must answer alike."""

from __future__ import annotations

from typing import Any

import pytest
from engine_driver import Output, request, run

from headway.server.engine.core import EngineCore
from headway.server.text.grammars.library import library_form
from headway.server.types import GenerateRequest, Grammar

LONG = [7, 3, 250, 4, 4, 19, 101, 258, 0, 77, 31] * 4
ABC = Grammar("checked", library_form(Grammar("regex", "[abc]{2,6}"), {}))


def assert_alike(single: EngineCore, other: EngineCore, requests: list[GenerateRequest], **how: Any) -> dict[str, Output]:
    """Runs the requests on both; returns the other's outputs. ``how``: see run."""
    expected, found = run(single, requests, **how), run(other, requests, **how)
    for name, output in expected.items():
        assert output.token_ids
        assert found[name].token_ids == output.token_ids, name
        assert found[name].finish_reason == output.finish_reason
        for here, there in zip(found[name].logprobs, output.logprobs, strict=True):
            assert here.logprob == pytest.approx(there.logprob, abs=1e-4)
        here_prompt, there_prompt = found[name].prompt_logprobs, output.prompt_logprobs
        assert [entry and entry.token_id for entry in here_prompt or []] == [entry and entry.token_id for entry in there_prompt or []]
    return found


def assert_alike_on_too_small_a_cache(single: EngineCore, other: EngineCore) -> None:
    """Greedy prompts that take several steps, arrive one by one, share their beginnings, and find too small a cache."""
    requests = [request(f"r{i}", [*LONG, *range(i, 3 * i)], max_tokens=24 + i) for i in range(8)]
    found = assert_alike(single, other, requests, stagger=3)
    assert any(output.num_cached_tokens for output in found.values())
    assert any(output.num_preemptions for output in found.values())


def assert_alike_in_every_option(single: EngineCore, other: EngineCore) -> None:
    """Of sampling. Both engines have a tokenizer whose tokens are bytes."""
    requests = [
        request("greedy", LONG[:20]),
        request("drawn", LONG[:9], temperature=1.0, seed=3, logprobs=2),
        request("seeded by the server", [5, 6, 7], temperature=1.0),
        request("scored", LONG, prompt_logprobs=1),
        request("penalised", [5, 6, 7], presence_penalty=1.5, bad_words=((9,),)),
        request("held", [5, 6, 8], grammar=ABC, max_tokens=8),
    ]
    for engine in (single, other):
        engine._executor.compile_grammar(ABC).result()  # so that nobody waits for it
    found = assert_alike(single, other, requests, stagger=1)
    assert set(found["held"].token_ids) <= set(b"abc")
    assert_alike(single, other, requests)
