"""Which parsers read a model's answers."""

from __future__ import annotations

import pytest
from tiny_tokenizers import byte_level_tokenizer

from headway.server.config.chat import ChatConfig
from headway.server.errors import ConfigError
from headway.server.text.chat_template import ChatTemplate
from headway.server.text.parsers import Parsers, check_parser_names, choose_parsers

QWEN = "{% if tools %}<tool_call></tool_call>{% endif %}{{ messages }}<think></think>"
GPT_OSS = "{{ messages }}{{ tools }}<|channel|>analysis<|message|>"


def chosen(source: str | dict[str, str], **options: str) -> Parsers:
    return choose_parsers(ChatConfig(**options), ChatTemplate(source, {}), byte_level_tokenizer())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        (QWEN, {}, Parsers("hermes", "qwen3")),
        (QWEN, {"tool_call_parser": "json", "reasoning_parser": "deepseek_r1"}, Parsers("json", "deepseek_r1")),
        (QWEN, {"reasoning_parser": "none"}, Parsers("hermes", None)),
        ("{{ messages }} <｜tool▁calls▁begin｜> tool", {}, Parsers("hermes", None)),  # shown tools in our own form
        ("{{ tools }} <｜tool▁calls▁begin｜>", {}, Parsers("deepseek_v31", None)),
        ("{{ tools }}", {}, Parsers("hermes", None)),
        ({}, {}, Parsers("hermes", None)),
        (GPT_OSS, {"tool_call_parser": "openai"}, Parsers("openai", "openai_gptoss")),
        (GPT_OSS, {"reasoning_parser": "openai_gptoss"}, Parsers("openai", "openai_gptoss")),
    ],
)
def test_what_the_template_tells_or_the_operator_says(source: str, options: dict[str, str], expected: Parsers) -> None:
    assert chosen(source, **options) == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tool_call_parser": "herms"}, "--tool-call-parser herms: there is no such parser; did you mean hermes"),
        ({"reasoning_parser": "deepseek-r1"}, "--reasoning-parser deepseek-r1: there is no such parser; did you mean deepseek_r1"),
        ({"reasoning_parser": "zzz"}, "there are auto, deepseek_r1"),
        ({"tool_call_parser": "openai", "reasoning_parser": "none"}, "goes with --reasoning-parser openai_gptoss only"),
    ],
)
def test_a_name_that_is_none(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_parser_names(ChatConfig(**options))  # type: ignore[arg-type]
    assert sentence in caught.value.problems[0]


def test_every_name_that_can_be_chosen_is_one() -> None:
    check_parser_names(ChatConfig())
    check_parser_names(ChatConfig(tool_call_parser="mistral", reasoning_parser="none"))
