"""Grammars in the engine: which tokens rows may take, when answers end, and requests that wait for a grammar."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_driver import Output, make_engine, request, run
from sampling import sample
from tiny_models import make_tiny_model
from tiny_tokenizers import byte_level_tokenizer

from headway.server.engine.core import EngineCore
from headway.server.engine.sampler import SamplingState
from headway.server.engine.structured import compiler as compiler_module
from headway.server.engine.structured.compiler import GrammarCompiler
from headway.server.source.files import ModelFiles
from headway.server.text.grammars.library import library_form
from headway.server.types import FinishReason, GenerateRequest, Grammar, SamplingParams, TokenDelta

TOKENIZER = byte_level_tokenizer()
V = 264
EOS = TOKENIZER.eos_token_ids[0]
A, B, C, X = (ord(letter) for letter in "abcx")


def grammar(kind: str, source: Any, starts_after: tuple[int, ...] = ()) -> Grammar:
    text = source if isinstance(source, str) else json.dumps(source)
    return Grammar("checked", library_form(Grammar(kind, text), {}), starts_after)  # type: ignore[arg-type]


def regex(source: str, starts_after: tuple[int, ...] = ()) -> Grammar:
    return grammar("regex", source, starts_after)


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(lambda: TOKENIZER, V)


@pytest.fixture
def state(compiler: GrammarCompiler) -> SamplingState:
    return SamplingState(4, V, torch.device("cpu"), 0, grammars=compiler)


def allowed(state: SamplingState, row: int = 0) -> set[int]:
    logits = torch.zeros(1, V)
    sample(state, logits, [row])
    return set(logits[0].isfinite().nonzero().flatten().tolist())


def params(asked: Grammar | None, **options: Any) -> SamplingParams:
    return SamplingParams(temperature=0.0, grammar=asked, **{"eos_token_ids": (EOS,), **options})


# The state of rows


def test_only_what_the_grammar_allows(state: SamplingState) -> None:
    state.add(0, params(regex("ab|c")), [1, 2], 2)
    assert allowed(state) == {A, C}
    state.append([0], [A])
    assert allowed(state) == {B}


def test_the_end_is_allowed_exactly_where_the_grammar_may_end(state: SamplingState) -> None:
    state.add(0, params(regex("a+"), stop_token_ids=(X,), eos_token_ids=(EOS, V + 100)), [1], 1)
    assert allowed(state) == {A}
    state.append([0], [A])
    assert allowed(state) == {A, EOS, X}


def test_rows_without_a_grammar_are_left_alone(state: SamplingState) -> None:
    state.add(0, params(regex("a")), [1], 1)
    state.add(1, params(None), [1], 1)
    logits = torch.zeros(2, V)
    sample(state, logits, [1, 0])
    assert logits[0].eq(0).all()
    assert logits[1].isfinite().sum() == 1


def test_complete_where_nothing_can_follow(state: SamplingState) -> None:
    state.add(0, params(regex("a")), [1], 1)
    state.append([0], [A])
    sampled = sample(state, torch.zeros(1, V), [0])
    assert sampled.complete == {0}
    assert sampled.token_ids == [-1]
    assert not sampled.errors


def test_free_until_the_reasoning_ends(state: SamplingState) -> None:
    state.add(0, params(regex("a", starts_after=(B, C))), [1, B, C], 3)
    assert len(allowed(state)) == V, "what the prompt holds does not count"
    for token in (X, B, B, C):
        state.append([0], [token])
    assert allowed(state) == {A}


@pytest.mark.parametrize("starts_after", [(), (B, C)])
def test_a_preempted_row_goes_on_where_it_was(state: SamplingState, starts_after: tuple[int, ...]) -> None:
    answer = [*starts_after, A]
    state.add(0, params(regex("ab", starts_after)), [1, 2, *answer], 2)
    assert allowed(state) == {B}


def test_a_row_whose_grammar_fails_ends_alone(state: SamplingState) -> None:
    ambiguous = grammar("grammar", 'start: start "a" | start start start | ""')
    state.add(0, params(ambiguous), [1, *[A] * 600], 1)
    state.add(1, params(regex("a")), [1], 1)
    sampled = sample(state, torch.zeros(2, V), [0, 1])
    assert "max is 500" in sampled.errors[0].text
    assert sampled.errors[0].is_request_fault
    assert sampled.token_ids[1] == A
    assert 1 not in sampled.errors


def test_a_token_outside_of_the_grammar_is_an_error_of_its_row(state: SamplingState) -> None:
    state.add(0, params(regex("ab")), [1], 1)
    state.append([0], [X])
    assert "left its grammar" in sample(state, torch.zeros(1, V), [0]).errors[0].text


def test_bias_that_leaves_no_allowed_token_is_said(state: SamplingState) -> None:
    logits = torch.full((1, V), float("-inf"))
    logits[0, X] = 1.0
    state.add(0, params(regex("ab")), [1], 1)
    assert "grammar leave no token" in sample(state, logits, [0]).errors[0].text


def test_tokens_that_the_tokenizer_lacks_are_never_allowed(state: SamplingState) -> None:
    state.add(0, params(regex("(?s:.)+")), [1], 1)
    assert max(allowed(state)) < TOKENIZER.vocab_size


# The compiler


def test_the_same_grammar_is_compiled_once(compiler: GrammarCompiler) -> None:
    form = regex("once|only").source
    assert compiler.begin(form) is compiler.begin(form)


def test_a_grammar_is_kept_while_somebody_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_module, "_MAX_KEPT", 2)
    compiler = GrammarCompiler(lambda: TOKENIZER, V)
    first = compiler.begin(regex("a1").source)
    for index in range(5):
        compiler.begin(regex(f"b{index}").source)
    assert compiler.begin(regex("a1").source) is first


# The engine


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return make_tiny_model("llama", Path(tmp_path_factory.mktemp("tiny")), vocab_size=V, num_hidden_layers=1, max_position_embeddings=2048)


@pytest.fixture
def engine(files: ModelFiles) -> Iterator[EngineCore]:
    built = make_engine(
        files, load_tokenizer=lambda: TOKENIZER, model={"max_model_len": 128}, cache={"num_gpu_blocks_override": 64, "block_size": 4}
    )
    yield built
    built.shutdown()


def finish(engine: EngineCore, requests: list[GenerateRequest], *open_ids: str) -> dict[str, Output]:
    """As the engine process does it: what waits for a grammar is taken in by ``settle``."""
    outputs = {request_id: Output() for request_id in (*open_ids, *(one.request_id for one in requests))}
    for one in requests:
        engine.add_request(one)
    while engine.awaits_grammars:
        engine.settle()
    return run(engine, [], outputs=outputs)


def text_of(output: Output) -> str:
    return TOKENIZER.decode(output.token_ids, skip_special_tokens=True)


def test_answers_end_with_their_grammar(engine: EngineCore) -> None:
    requests = [
        request("eos", [1, 2], grammar=regex("abc"), eos_token_ids=(EOS,)),
        request("ignored", [1, 2], grammar=regex("abc"), ignore_eos=True),
        request("least", [1, 2], grammar=regex("abc"), eos_token_ids=(EOS,), min_tokens=10),
        request("cut", [1, 2], grammar=regex("abc"), eos_token_ids=(EOS,), max_tokens=2),
        request("logprobs", [1, 2], grammar=regex("abc"), eos_token_ids=(EOS,), logprobs=1),
        request("plain", [1, 2], eos_token_ids=(EOS,)),
    ]
    outputs = finish(engine, requests)
    for name in ("eos", "ignored", "least", "logprobs"):
        assert text_of(outputs[name]) == "abc"
        assert outputs[name].finish_reason is FinishReason.STOP
    assert text_of(outputs["cut"]) == "ab"
    assert outputs["cut"].finish_reason is FinishReason.LENGTH
    assert len(outputs["logprobs"].logprobs) == 3
    assert len(outputs["plain"].token_ids) == 16


def test_min_tokens_keep_an_answer_going_that_may_go_on(engine: EngineCore) -> None:
    bias = {EOS: 100.0}
    outputs = finish(engine, [request("r", [1], grammar=regex("a+"), eos_token_ids=(EOS,), min_tokens=5, logit_bias=bias)])
    assert text_of(outputs["r"]) == "aaaaa"


def test_preempted_answers_are_the_same(files: ModelFiles) -> None:
    asked = [
        request(f"r{i}", [i + 1] * 8, grammar=regex(f"[a-z]{{{20 + i}}}{i}"), max_tokens=40, eos_token_ids=(EOS,), temperature=1.0, seed=i)
        for i in range(6)
    ]
    roomy, tight = (
        make_engine(files, load_tokenizer=lambda: TOKENIZER, cache={"num_gpu_blocks_override": blocks, "block_size": 4})
        for blocks in (100, 20)
    )
    expected, actual = finish(roomy, asked), finish(tight, asked)
    assert sum(output.num_preemptions for output in actual.values()) > 0
    for index in range(6):
        assert text_of(actual[f"r{index}"]) == text_of(expected[f"r{index}"])
        assert text_of(actual[f"r{index}"]).endswith(str(index))


def test_more_grammars_than_are_kept(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_module, "_MAX_KEPT", 4)
    engine = make_engine(files, load_tokenizer=lambda: TOKENIZER)
    outputs = finish(engine, [request(f"r{i}", [1], grammar=regex(f"n{i}"), eos_token_ids=(EOS,)) for i in range(40)])
    assert [text_of(outputs[f"r{i}"]) for i in range(40)] == [f"n{i}" for i in range(40)]


class SlowTokenizer:
    """Compiling waits for it."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def load(self) -> Any:
        assert self.gate.wait(60)
        return TOKENIZER


def test_a_grammar_that_is_compiled_holds_up_nobody_else(files: ModelFiles) -> None:
    slow = SlowTokenizer()
    engine = make_engine(files, load_tokenizer=slow.load)
    engine.add_request(request("waits", [1], grammar=regex("abc"), eos_token_ids=(EOS,)))
    engine.add_request(request("left", [1], grammar=regex("abd"), eos_token_ids=(EOS,)))
    assert engine.stats().num_waiting == 2
    plain = run(engine, [request("plain", [1, 2])])
    assert len(plain["plain"].token_ids) == 16
    assert engine.awaits_grammars
    assert not engine.has_work
    engine.abort(["left"])
    assert engine.step().deltas[0].finish_reason is FinishReason.ABORT
    slow.gate.set()
    outputs = finish(engine, [request("late", [1], grammar=regex("abc"), eos_token_ids=(EOS,))], "waits")
    assert text_of(outputs["late"]) == text_of(outputs["waits"]) == "abc"


def test_a_sleep_aborts_what_waits_for_a_grammar(files: ModelFiles) -> None:
    slow = SlowTokenizer()
    engine = make_engine(files, load_tokenizer=slow.load)
    engine.add_request(request("waits", [1], grammar=regex("abc")))
    engine.sleep(1, "abort", lambda problem: None)
    engine.settle()
    assert [delta.finish_reason for delta in engine.step().deltas] == [FinishReason.ABORT]
    slow.gate.set()


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_what_can_t_be_compiled_ends_its_request_only(files: ModelFiles, has_tokenizer: bool) -> None:
    engine = make_engine(files, load_tokenizer=(lambda: TOKENIZER) if has_tokenizer else None)
    engine.add_request(request("bad", [1], grammar=regex("(a")))
    deltas: list[TokenDelta] = []
    while not deltas:
        engine.settle()
        deltas = engine.step().deltas
    assert deltas[0].finish_reason is FinishReason.ERROR
    assert ("can't be compiled" if has_tokenizer else "no tokenizer") in str(deltas[0].error)
    assert len(run(engine, [request("good", [1, 2])])["good"].token_ids) == 16
