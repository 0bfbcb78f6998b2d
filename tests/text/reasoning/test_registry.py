"""What a prompt says of reasoning, the tokens that end it, and which parser a model wants."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_tokenizers import byte_level_tokenizer
from tokenizers import AddedToken

from headway.server.text.reasoning.registry import detect_reasoning_parser, may_reason, opens_reasoning, reasoning_end_tokens

ASSISTANT = "<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n"
CLOSED = ASSISTANT + "<think>\n\n</think>\n\n"
OPEN = ASSISTANT + "<think>\n"


@pytest.mark.parametrize(("name", "prompt", "kwargs", "opens", "may"), [
    ("qwen3", ASSISTANT, {}, False, True),
    ("qwen3", OPEN, {}, True, True),
    ("qwen3", CLOSED, {"enable_thinking": False}, False, False),
    ("qwen3", ASSISTANT, {"enable_thinking": False}, False, False),
    ("qwen3", ASSISTANT, {"enable_thinking": True}, False, True),
    ("deepseek_r1", ASSISTANT, {}, True, True),
    ("deepseek_r1", ASSISTANT, {"enable_thinking": False}, False, False),
    ("deepseek_r1", CLOSED, {}, False, False),
    ("deepseek_v3", "<｜Assistant｜><think>", {"thinking": True}, True, True),
    ("deepseek_v3", "<｜Assistant｜></think>", {}, False, False),
    ("deepseek_v3", "<｜Assistant｜>", {}, False, True),
    ("granite", ASSISTANT, {}, False, False),
    ("granite", ASSISTANT, {"thinking": True}, False, True),
    ("qwen3", "", {}, False, True),
    ("deepseek_r1", ASSISTANT + "<think>", {"enable_thinking": False}, True, True),  # the prompt is what the model sees
])  # fmt: skip
def test_what_the_prompt_says(name: str, prompt: str, kwargs: dict[str, Any], opens: bool, may: bool) -> None:
    assert opens_reasoning(name, prompt, kwargs) is opens
    assert may_reason(name, prompt, kwargs) is may


@pytest.mark.parametrize(("end", "opens"), [("<think>\nI was", True), ("<think>x</think>The ans", False), ("The ans", False)])
def test_a_continued_answer_goes_on_where_it_was(end: str, opens: bool) -> None:
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n" + end
    assert opens_reasoning("deepseek_r1", prompt, continues=True) is opens
    assert may_reason("deepseek_r1", prompt, continues=True) is opens


def test_the_tokens_that_end_reasoning() -> None:
    tokenizer = byte_level_tokenizer()
    assert tokenizer.decode(reasoning_end_tokens("granite", tokenizer)) == "Here is my response:"
    assert tokenizer.decode(reasoning_end_tokens("qwen3", tokenizer)) == "</think>"
    tokenizer.backend.add_tokens([AddedToken("</think>", special=False)])
    assert reasoning_end_tokens("qwen3", tokenizer) == (tokenizer.token_to_id("</think>"),)


@pytest.mark.parametrize(("template", "tokens", "name"), [
    ("{{ bos }}<|im_start|>...</think>", {"<think>", "</think>", "<|im_start|>"}, "qwen3"),
    ("<|im_start|>{{ content }}", {"<think>", "<|im_start|>"}, None),
    ("{% set content = content.split('</think>')[-1] %}<｜Assistant｜><think>\n", {"<think>"}, "deepseek_r1"),
    ("{% if not thinking is defined %}<｜Assistant｜></think>", set(), "deepseek_v3"),
    ("... Here is my thought process: ...", set(), "granite"),
    ("[INST]", {"[INST]", "[THINK]", "[/THINK]"}, "mistral"),
    ("<seed:bos>", {"<seed:think>"}, "seed_oss"),
    ("[gMASK]<sop> ... <think></think>", {"[gMASK]", "<think>"}, "glm45"),
    ("<think></think>", {"<|tool_calls_section_begin|>"}, "kimi_k2"),
    ("", set(), None),
])  # fmt: skip
def test_a_models_parser_is_found(template: str, tokens: set[str], name: str | None) -> None:
    assert detect_reasoning_parser(template, tokens) == name
