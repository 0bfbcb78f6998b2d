"""Recorded answers of the families that put JSON between tokens of their own."""

from __future__ import annotations

from tool_texts import Recorded

OSLO = '{"city": "Oslo \\"O\\"", "days": [1, {"a": "}"}]}'

MARKED = [
    Recorded("granite4", "one", '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', calls=(("now", "{}"),)),
    Recorded(
        "granite",
        "parallel",
        f'<|tool_call|>[{{"name": "get_weather", "arguments": {OSLO}}}, {{"name": "now", "arguments": {{}}}}]',
        calls=(("get_weather", OSLO), ("now", "{}")),
    ),
    Recorded(
        "granite",
        "in an element",
        'Sure.<tool_call>[{"name": "now", "arguments": {}}]</tool_call>',
        "Sure.",
        (("now", "{}"),),
    ),
    Recorded("granite", "no call", "<|tool_call|>none", "<|tool_call|>none"),
    Recorded(
        "granite-20b-fc",
        "two",
        f'<function_call> {{"name": "get_weather", "arguments": {OSLO}}}\n<function_call> {{"name": "now", "arguments": {{}}}}',
        calls=(("get_weather", OSLO), ("now", "{}")),
    ),
    Recorded(
        "internlm",
        "one",
        f'I look it up.<|action_start|><|plugin|>\n{{"name": "get_weather", "parameters": {OSLO}}}<|action_end|>\n',
        "I look it up.",
        (("get_weather", OSLO),),
    ),
    Recorded(
        "jamba",
        "two",
        f'Hm. <tool_calls>[\n  {{"name": "get_weather", "arguments": {OSLO}}},\n  {{"name": "now", "arguments": {{}}}}\n]</tool_calls>',
        "Hm.",
        (("get_weather", OSLO), ("now", "{}")),
    ),
    Recorded(
        "longcat",
        "one",
        '<longcat_tool_call>{"name": "now", "arguments": {}}</longcat_tool_call>',
        calls=(("now", "{}"),),
    ),
    Recorded(
        "phi4_mini_json",
        "two",
        'functools[{"name": "now", "arguments": {}}, {"name": "get_weather", "arguments": {"city": "Bern"}}]',
        calls=(("now", "{}"), ("get_weather", '{"city": "Bern"}')),
    ),
    Recorded("phi4_mini_json", "a word", "Use functools.partial (from functools).", "Use functools.partial (from functools)."),
]

MISTRAL = [
    Recorded(
        "mistral",
        "a list",
        f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {OSLO}, "id": "a1B2c3D4e"}}, {{"name": "now", "arguments": {{}}}}]',
        calls=(("get_weather", OSLO), ("now", "{}")),
    ),
    Recorded("mistral", "an object", '[TOOL_CALLS]{"name": "now", "arguments": {}}', calls=(("now", "{}"),)),
    Recorded(
        "mistral",
        "names",
        f"One moment. [TOOL_CALLS]get_weather{OSLO}[TOOL_CALLS]now{{}}",
        "One moment.",
        (("get_weather", OSLO), ("now", "{}")),
    ),
    Recorded(
        "mistral",
        "names and tokens",
        f"[TOOL_CALLS]get_weather[CALL_ID]VvvODy9mT[ARGS]{OSLO}[TOOL_CALLS]now[ARGS]{{}}",
        calls=(("get_weather", OSLO), ("now", "{}")),
    ),
    Recorded("mistral", "cut off", '[TOOL_CALLS]get_weather{"city": "Os', calls=(("get_weather", '{"city": "Os'),)),
    Recorded("mistral", "cut off in a name", "[TOOL_CALLS]get_wea", "[TOOL_CALLS]get_wea"),
    Recorded("mistral", "no call", "[TOOL_CALLS] I would call [x]", "[TOOL_CALLS] I would call [x]"),
]

DEEPSEEK = [
    Recorded(
        "deepseek_v3",
        "parallel",
        "Two calls.\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        f"```json\n{OSLO}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{{}}\n"
        "```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "Two calls.",
        (("get_weather", OSLO), ("now", "{}")),
    ),
    Recorded(
        "deepseek_v3",
        "a forgotten brace",
        '<｜tool▁call▁begin｜>function<｜tool▁sep｜>book\n```json\n{"guest": {"a": 1}\n```<｜tool▁call▁end｜>',
        calls=(("book", '{"guest": {"a": 1}\n'),),
    ),
    Recorded(
        "deepseek_v31",
        "parallel",
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{OSLO}<｜tool▁call▁end｜>"
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        calls=(("get_weather", OSLO), ("now", "{}")),
    ),
    Recorded(
        "deepseek_v31",
        "cut off",
        "Hm<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>",
        "Hm<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>",
    ),
]

KIMI = [
    Recorded(
        "kimi_k2",
        "parallel",
        f"I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{OSLO}<|tool_call_end|>"
        "<|tool_call_begin|>now:1<|tool_call_argument_begin|> {}<|tool_call_end|><|tool_calls_section_end|>",
        "I look.",
        (("get_weather", OSLO), ("now", "{}")),
    ),
    Recorded("kimi_k2", "cut off", "<|tool_call_begin|>functions.now:0", "<|tool_call_begin|>functions.now:0"),
]

TEXTS = [*MARKED, *MISTRAL, *DEEPSEEK, *KIMI]
