"""Reasoning between marks: the same whatever the pieces, nothing lost, no mark told."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parsed_answers import Told, cut, every_cut, told
from tiny_tokenizers import byte_level_tokenizer

from headway.server.text.detokenizer import IncrementalDetokenizer
from headway.server.text.output import OutputParser, Parsed, PlainParser
from headway.server.text.reasoning.families import FAMILIES, HARMONY
from headway.server.text.reasoning.registry import make_reasoning_parser

TOKENIZER = byte_level_tokenizer()


def parser(name: str, *, is_open: bool = False) -> OutputParser:
    return make_reasoning_parser(name, PlainParser(), TOKENIZER, is_open=is_open)


GRANITE = "Here is my thought process: The user greets.\nHere is my response: Hello! Here is my response: what?"
# name, is_open, answer, reasoning, content
ANSWERS = [
    ("qwen3", False, "<think>\nOkay.\n\nBe kind.\n</think>\n\nHello <b>you</b>!\n", "Okay.\n\nBe kind.", "Hello <b>you</b>!\n"),
    ("qwen3", False, "<think>\n\n</think>\n\nHello", "", "Hello"),
    ("qwen3", False, "\n <think>Hm</think>Yes", "Hm", "Yes"),
    ("qwen3", False, "The tag <think> begins it, </think> ends it.", "", "The tag <think> begins it, </think> ends it."),
    ("qwen3", False, "\n\nNo marks", "", "\n\nNo marks"),
    ("qwen3", False, "<think>cut o", "cut o", ""),
    ("qwen3", False, "<thin", "", "<thin"),
    ("qwen3", False, "", "", ""),
    ("qwen3", True, "Hm.\n</think>\n\nYes </think>", "Hm.", "Yes </think>"),
    ("qwen3", True, "<think>\nHm </thin </think></think>", "Hm </thin ", "</think>"),
    ("qwen3", True, "all of it </thi", "all of it </thi", ""),
    ("qwen3", True, "I call.\n<tool_call>\n<function=f>\n</tool_call>", "I call.", "<tool_call>\n<function=f>\n</tool_call>"),
    ("qwen3", True, "a <tool_call> is\n<tool_call>\n{}</think>x", "a <tool_call> is\n<tool_call>\n{}", "x"),
    ("deepseek_r1", True, "First, 2+2.\n</think>\n**4**", "First, 2+2.", "**4**"),
    ("deepseek_r1", True, "<think>\nFirst.</think>4", "First.", "4"),
    ("deepseek_v3", False, "The answer is 4.", "", "The answer is 4."),
    ("granite", False, GRANITE, " The user greets.", " Hello! Here is my response: what?"),
    ("granite", False, "Here's my thought process: x Here's my response: y", " x ", " y"),
    ("granite", False, "Here is my answer: y", "", "Here is my answer: y"),
    ("mistral", False, "[THINK]Let me see.[/THINK]Bonjour [INST]", "Let me see.", "Bonjour [INST]"),
    ("seed_oss", True, "Got it.<seed:x>12</seed:x></seed:think>Hi", "Got it.<seed:x>12</seed:x>", "Hi"),
    ("kimi_k2", True, "So I call.<|tool_calls_section_begin|>x", "So I call.", "<|tool_calls_section_begin|>x"),
    ("hunyuan_a13b", False, "<think>\nHm.\n</think>\n<answer>\nYes </answer>\n</answer>", "Hm.", "Yes </answer>"),
    ("hunyuan_a13b", False, "<answer>\nYes\n</answer>\n", "", "Yes"),
    ("hunyuan_a13b", False, "<answ </answer>\n</answer>", "", "<answ </answer>\n</answer>"),
    ("hunyuan_a13b", True, "Hm.\n</think>\n<ans", "Hm.", "<ans"),
    ("glm45", False, "\n<think>Simple.</think>\nHi", "Simple.", "Hi"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "is_open", "answer", "reasoning", "content"), ANSWERS)
def test_every_cut_of_recorded_answers(name: str, is_open: bool, answer: str, reasoning: str, content: str) -> None:
    for pieces in every_cut(answer):
        assert told(parser(name, is_open=is_open), pieces) == Told(reasoning, content)


FRAGMENTS = ["<think>", "</think>", "<thi", "nk>", "</", "\n", " ", "a", "é😀", "<tool_call>\n<function=", "[THINK]", "[/THINK]", "Here"]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=16).map("".join)


@given(name=st.sampled_from(sorted(FAMILIES)), is_open=st.booleans(), text=texts, data=st.data())
@settings(max_examples=400, deadline=None)
def test_no_split_changes_what_is_told(name: str, is_open: bool, text: str, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=10))
    whole = told(parser(name, is_open=is_open), cut(text, []))
    assert told(parser(name, is_open=is_open), cut(text, places)) == whole
    if name != HARMONY:  # which says itself where newlines belong
        assert whole.reasoning == whole.reasoning.strip("\n")
    assert whole.reasoning in text
    assert whole.content in text


def tokens(ids: list[int], size: int, num_lagging: int = 0) -> list[tuple[str, list[int]]]:
    """Pushes of ``size`` tokens whose text comes up to ``num_lagging`` characters late, as where a stop string may begin."""
    detokenizer = IncrementalDetokenizer(TOKENIZER)
    pushes, held = [], ""
    for at in range(0, len(ids), size):
        held += detokenizer.push(ids[at : at + size]).text
        keep = min(num_lagging, len(held))
        pushes.append((held[: len(held) - keep], ids[at : at + size]))
        held = held[len(held) - keep :]
    return [*pushes, (held + detokenizer.finish(), [])]


@pytest.mark.parametrize(("name", "is_open", "reasoning", "rest"), [
    ("qwen3", False, "<think>Hm é</think>", "\n\nHello"),
    ("qwen3", True, "hello </think>", " hello"),
    ("qwen3", True, "\n\n", ""),
    ("qwen3", False, "", "hello, no reasoning"),
    ("qwen3", True, "cut é", ""),
    ("qwen3", True, "x\n", "<tool_call>\n<function=f>"),
    ("granite", False, "Here is my thought process: é Here is my response:", " é"),
])  # fmt: skip
def test_reasoning_tokens_are_counted_marks_included(name: str, is_open: bool, reasoning: str, rest: str) -> None:
    first, second = (TOKENIZER.encode(text, add_special_tokens=False) for text in (reasoning, rest))
    for size in (1, 2, 3, 100):
        for num_lagging in (0, 1, 7):
            result = told(parser(name, is_open=is_open), tokens(first + second, size, num_lagging))
            assert result.num_reasoning_tokens == len(first), (size, num_lagging)


@given(ids=st.lists(st.one_of(st.sampled_from(sorted(b"<think></think>\n\xc3\xa9")), st.integers(0, 262)), max_size=60), data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_tokens_count_the_same_in_any_pieces(ids: list[int], data: st.DataObject) -> None:
    is_open = data.draw(st.booleans())
    results = {
        told(parser("qwen3", is_open=is_open), tokens(ids, size, num_lagging))
        for size in (1, 4, 100)
        for num_lagging in (0, data.draw(st.integers(0, 9)))
    }
    assert len(results) == 1
    assert results.pop().num_reasoning_tokens <= len(ids)


class Recorder(PlainParser):
    """Keeps the token ids that it gets."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []

    def push(self, text: str, token_ids: Sequence[int]) -> Parsed:
        self.token_ids += token_ids
        return super().push(text, token_ids)


@pytest.mark.parametrize("answer", ["<think>Hm</think>Yes <b>", "No marks", "<thi"])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_inner_parser_gets_the_tokens_of_the_content(answer: str, size: int) -> None:
    inner = Recorder()
    result = told(make_reasoning_parser("qwen3", inner, TOKENIZER, is_open=False), tokens([*answer.encode()], size, 2))
    assert TOKENIZER.decode(inner.token_ids) == result.content


@pytest.mark.parametrize("unit", ["\n", " ", "<", "</think", "<think>", "a\n", "</think>"])
def test_hostile_answers_take_linear_time(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    started = time.process_time()
    for is_open in (True, False):
        told(parser("qwen3", is_open=is_open), cut(text, range(1, len(text))))
    assert time.process_time() - started < 10
