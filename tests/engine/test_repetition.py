"""Repetition detection against its definition, and as a reason to end."""

from __future__ import annotations

from pathlib import Path

from engine_driver import make_engine, request, run
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_tiny_model

from headway.server.engine.finish import finish_of
from headway.server.engine.repetition import RepetitionWatch
from headway.server.types import FinishReason, RepetitionRule, SamplingParams


def repeats(tokens: list[int], rule: RepetitionRule) -> bool:
    for size in range(rule.min_pattern_size, rule.max_pattern_size + 1):
        end = tokens[-size * rule.min_count :]
        if len(end) == size * rule.min_count and end == end[:size] * rule.min_count:
            return True
    return False


@settings(max_examples=300, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 2), max_size=40),
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    min_count=st.integers(2, 4),
)
def test_the_watch_sees_what_a_search_finds(tokens: list[int], sizes: tuple[int, int], min_count: int) -> None:
    rule = RepetitionRule(min(sizes), max(sizes), min_count)
    watch = RepetitionWatch(rule)
    for count in range(1, len(tokens) + 1):
        assert watch.push(tokens[count - 1]) == repeats(tokens[:count], rule), (tokens[:count], rule)


def test_it_ends_an_answer_behind_min_tokens_only() -> None:
    def end(num_output_tokens: int) -> object:
        sampling = SamplingParams(max_tokens=20, min_tokens=5)
        return finish_of(sampling, 7, num_output_tokens=num_output_tokens, num_tokens=30, max_len=50, repeats=True)

    assert end(5) is None
    assert end(6) == (FinishReason.REPETITION, "repetition_detected")


def test_a_request_ends_with_it_across_preemption(tmp_path: Path) -> None:
    """A bias makes each request write one token for ever; a small cache makes them give way to each other."""
    files = make_tiny_model("llama", tmp_path, seed=1)
    engine = make_engine(files, model={"max_model_len": 64}, cache={"num_gpu_blocks_override": 20, "block_size": 4})
    rule = RepetitionRule(1, 3, 20)
    asked = [request(f"r{i}", [5 + i, 6, 7], max_tokens=40, logit_bias={9: 100.0}, repetition=rule) for i in range(4)]
    outputs = run(engine, [*asked, request("free", [5, 6, 7], max_tokens=40, logit_bias={9: 100.0}, ignore_eos=True)])
    engine.shutdown()
    assert sum(output.num_preemptions for output in outputs.values()) > 0
    for one in asked:
        output = outputs[one.request_id]
        assert (output.token_ids, output.finish_reason) == ([9] * 20, FinishReason.REPETITION)
    assert len(outputs["free"].token_ids) == 40
