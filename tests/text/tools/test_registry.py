"""Parsers by name, and which one a model's template and tokens ask for."""

from __future__ import annotations

import pytest
import tool_texts_json
import tool_texts_python
import tool_texts_tokens
import tool_texts_xml
from tool_texts import TOOLS

from headway.server.text.tools.registry import TOOL_PARSERS, detect_tool_parser, keeps_special_tokens, make_tool_parser

LOOP = "{%- if tools %}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{%- endif %}"
# Label -> what a model's template says of calls, its added tokens, the parser.
MODELS: dict[str, tuple[str, tuple[str, ...], str | None]] = {
    "Qwen 2.5 and 3": (
        LOOP + 'return a json object with function name and arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{\\"name\\":'
        ' <function-name>, \\"arguments\\": <args-json-object>}\\n</tool_call><|im_end|>',
        ("<|im_end|>", "<tool_call>", "</tool_call>"),
        "hermes",
    ),
    "SmolLM 2": (
        LOOP
        + '<tool_call>[\n{"name": "func_name1", "arguments": {"argument1": "value1"}},\n... (more tool calls as required)\n]</tool_call>',
        (),
        "hermes",
    ),
    "Granite 4": (LOOP + "<|start_of_role|>system<|end_of_role|> <tool_call></tool_call> XML tags", ("<|tool_call|>",), "hermes"),
    "Granite 3": (LOOP + "<|start_of_role|>.. respond with <|tool_call|> followed by a JSON list of tools used.", (), "granite"),
    "Qwen 3 Coder": (
        LOOP + "<tool_call>\\n<function=example_function_name>\\n<parameter=a>\\nvalue_1\\n</parameter>\\n</function>\\n</tool_call>",
        ("<tool_call>", "</tool_call>"),
        "qwen3_coder",
    ),
    "Seed OSS": (
        LOOP + "<seed:tool_call>\\n<function=name>\\n<parameter=a>1</parameter>\\n</function>\\n</seed:tool_call>",
        (),
        "seed_oss",
    ),
    "MiniMax M2": (LOOP + "<minimax:tool_call>\\n<invoke name=", (), "minimax_m2"),
    "GLM 4.5": (LOOP + "<tool_call>{function-name}\\n<arg_key>{k}</arg_key>\\n<arg_value>{v}</arg_value>\\n</tool_call>", (), "glm45"),
    "Llama 3.1 to 3.3": (
        LOOP + '<|start_header_id|>system<|end_header_id|>Respond in the format {"name": function name, "parameters": dictionary of'
        " argument name and its value}. Do not use variables.",
        ("<|python_tag|>",),
        "llama3_json",
    ),
    "Llama 4": (LOOP + '<|header_start|>{"name": function name, "parameters": dictionary of argument name}', (), "llama4_json"),
    "Llama 4, pythonic": (
        LOOP + "<|header_start|>[func_name1(params_name1=params_value1..), ..]",
        ("<|python_start|>",),
        "llama4_pythonic",
    ),
    "ToolACE": (LOOP + "<|start_header_id|>[func_name1(params_name1=params_value1, ..), func_name2(params)]", (), "pythonic"),
    "Mistral": (LOOP + '{{- "[AVAILABLE_TOOLS] [" }} {{- "[TOOL_CALLS] [" }}', ("[TOOL_CALLS]",), "mistral"),
    "Mistral, its template without a call": (LOOP + '{{- "[AVAILABLE_TOOLS]" }}', ("[TOOL_CALLS]", "[INST]"), "mistral"),
    "DeepSeek V3, R1": (
        "{%- for tool in message['tool_calls']%}{{'<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'"
        " + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\\n' + '```json' + '\\n' + tool['function']['arguments']}}",
        ("<tool_call>", "</tool_call>"),
        "deepseek_v3",
    ),
    "DeepSeek V3.1": (
        "{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'+ tool['function']['name'] + '<｜tool▁sep｜>' + tool['function']['arguments']}}",
        (),
        "deepseek_v31",
    ),
    "Kimi K2": (LOOP + "<|tool_calls_section_begin|>{%- for tool_call in message['tool_calls'] -%}<|tool_call_begin|>", (), "kimi_k2"),
    "LFM 2": (LOOP + "List of tools: <|tool_list_start|>[", ("<|tool_call_start|>", "<|tool_call_end|>"), "lfm2"),
    "InternLM 2.5": (LOOP + "<|action_start|><|plugin|>", (), "internlm"),
    "Jamba": (LOOP + "<tool_calls>[ .. ]</tool_calls>", (), "jamba"),
    "LongCat": (LOOP + "<longcat_tool_call>", (), "longcat"),
    "Phi-4 mini": (
        "{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' }}",
        (),
        "phi4_mini_json",
    ),
    "Granite 20B": (LOOP + "<function_call> ", (), "granite-20b-fc"),
    "an own template with JSON": (LOOP + 'Answer with {"name": .., "arguments": {..}} to call one.', (), "json"),
    "gpt-oss": (LOOP + "<|start|>assistant to=functions.{{ name }}<|channel|>commentary json<|message|><|call|>", ("<|call|>",), None),
    "no tools": ("{% for message in messages %}<|im_start|>{{ message.content }}{% endfor %}", ("<tool_call>", "</tool_call>"), None),
    "tools in a form that is not known": (LOOP, ("<|im_end|>",), None),
}


@pytest.mark.parametrize("label", MODELS)
def test_the_template_tells_the_parser(label: str) -> None:
    template, tokens, parser = MODELS[label]
    assert detect_tool_parser(template, set(tokens)) == parser


def test_every_parser_that_is_found_out_exists() -> None:
    assert {parser for _, _, parser in MODELS.values()} - {None} <= set(TOOL_PARSERS)


def test_every_parser_has_recorded_answers() -> None:
    texts = [*tool_texts_json.TEXTS, *tool_texts_tokens.TEXTS, *tool_texts_python.TEXTS, *tool_texts_xml.TEXTS]
    tried = {TOOL_PARSERS[recorded.parser] for recorded in texts if recorded.calls}
    assert tried == set(TOOL_PARSERS.values())


def test_special_tokens_are_kept_for_those_that_read_them() -> None:
    assert keeps_special_tokens("mistral")
    assert keeps_special_tokens("hermes")
    assert not keeps_special_tokens("pythonic")
    assert not keeps_special_tokens("json")


@pytest.mark.parametrize(
    ("parser", "pieces", "first"),
    [
        ("hermes", ['<tool_call>{"name": "now", "arguments": {', '"a'], ["{", '"a']),
        ("mistral", ['[TOOL_CALLS]now{"', "a"], ['{"', "a"]),
        ("qwen3_coder", ["<function=get_weather>\n<parameter=city>\nPa", "ri", "s\n"], ['{"city": "Pa', "ri", "s"]),
    ],
)
def test_arguments_go_out_as_they_come(parser: str, pieces: list[str], first: list[str]) -> None:
    reading = make_tool_parser(parser, TOOLS)
    told = [reading.push(piece, []).tool_calls for piece in pieces]
    assert [[piece.arguments for piece in some] for some in told] == [[text] for text in first]
    assert [some[0].name is not None for some in told] == [True] + [False] * (len(told) - 1)


def test_content_goes_out_as_it_comes() -> None:
    parser = make_tool_parser("hermes", [])
    told = [parser.push(piece, []).content for piece in ("One ", "two", " <tool", "s>, three")]
    assert told == ["One", " two", "", " <tools>, three"]
