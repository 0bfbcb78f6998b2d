"""Recorded answers of the families that write calls as JSON."""

from __future__ import annotations

from tool_texts import Recorded

NESTED = '{"seats": ["1A", "1]B"], "guest": {"name": "Zoë \\"Z\\" {Ω} \\\\", "tags": {"a": [1, {"b": null}]}}, "price": -1.5e3}'

HERMES = [
    Recorded("hermes", "plain", "Hello, {you} <b>there</b>! ", "Hello, {you} <b>there</b>! "),
    Recorded(
        "hermes",
        "one",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>',
        calls=(("get_weather", '{"city": "Paris", "days": 3}'),),
    ),
    Recorded(
        "hermes",
        "parallel, with text around",
        'Let me look.\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "東京 🗼"}}\n</tool_call>\n<tool_call>\n'
        f'{{"name": "book", "arguments": {NESTED}}}\n</tool_call>\nOne moment.',
        "Let me look.\n\nOne moment.",
        (("get_weather", '{"city": "東京 🗼"}'), ("book", NESTED)),
    ),
    Recorded(
        "hermes", "nothing but white space around", '\n <tool_call>{"name": "now", "arguments": {}}</tool_call>\n', calls=(("now", "{}"),)
    ),
    Recorded("hermes", "no arguments", '<tool_call>{"name": "now"}</tool_call>', calls=(("now", "{}"),)),
    Recorded("hermes", "null arguments", '<tool_call>{"name": "now", "arguments": null}</tool_call>', calls=(("now", "{}"),)),
    Recorded(
        "hermes",
        "arguments first",
        '<tool_call>{"arguments": {"city": "Rome"} , "name": "get_weather"}</tool_call>',
        calls=(("get_weather", '{"city": "Rome"}'),),
    ),
    Recorded(
        "hermes",
        "arguments in a string",
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Bonn\\"}"}</tool_call>',
        calls=(("get_weather", '{"city": "Bonn"}'),),
    ),
    Recorded(
        "hermes",
        "other keys",
        '<tool_call>{"id": 7, "why": {"a": "}"}, "name": "now", "arguments": {}, "also": [1]}</tool_call>',
        calls=(("now", "{}"),),
    ),
    Recorded(
        "hermes",
        "a line break in a string",
        '<tool_call>{"name": "get_weather", "arguments": {\n"city": "a\nb\tc"}}</tool_call>',
        calls=(("get_weather", '{\n"city": "a\\nb\\tc"}'),),
    ),
    Recorded(
        "hermes",
        "arguments beside the name",
        '<tool_call>{"name": "get_weather", "city": "Bonn"}</tool_call>',
        '<tool_call>{"name": "get_weather", "city": "Bonn"}</tool_call>',
    ),
    Recorded(
        "hermes",
        "a list",
        '<tool_call>[{"name": "now", "arguments": {}}, {"name": "get_weather", "arguments": {"city": "Bern"}}]</tool_call>',
        calls=(("now", "{}"), ("get_weather", '{"city": "Bern"}')),
    ),
    Recorded(
        "hermes",
        "two in one block",
        '<tool_call>\n{"name": "now", "arguments": {}}\n{"name": "now", "arguments": {"x": 1}}\n</tool_call>',
        calls=(("now", "{}"), ("now", '{"x": 1}')),
    ),
    Recorded(
        "hermes",
        "marks in strings",
        '<tool_call>{"name": "get_weather", "arguments": {"city": "</tool_call><tool_call>"}}</tool_call>',
        calls=(("get_weather", '{"city": "</tool_call><tool_call>"}'),),
    ),
    Recorded(
        "hermes",
        "a forgotten end",
        '<tool_call>{"name": "now", "arguments": {}}<tool_call>{"name": "now", "arguments": {}}',
        calls=(("now", "{}"), ("now", "{}")),
    ),
    Recorded(
        "hermes",
        "a forgotten brace",
        '<tool_call>{"name": "now", "arguments": {"a": 1}</tool_call>Done.',
        "Done.",
        (("now", '{"a": 1}'),),
    ),
    Recorded("hermes", "a brace too many", '<tool_call>{"name": "now", "arguments": {}}}</tool_call>', "}", (("now", "{}"),)),
    Recorded("hermes", "cut off in a name", '<tool_call>{"name": "get_wea', '<tool_call>{"name": "get_wea'),
    Recorded("hermes", "cut off in a mark", "Well <tool_ca", "Well <tool_ca"),
    Recorded(
        "hermes",
        "cut off in arguments",
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Pa',
        calls=(("get_weather", '{"city": "Pa'),),
    ),
    Recorded("hermes", "no call", "<tool_call>hm</tool_call> ok", "<tool_call>hm</tool_call> ok"),
    Recorded("hermes", "an empty list", "<tool_call>[]</tool_call>", "<tool_call>[]</tool_call>"),
    Recorded("hermes", "no name", '<tool_call>{"arguments": {}}</tool_call>', '<tool_call>{"arguments": {}}</tool_call>'),
    Recorded("hermes", "an empty name", '<tool_call>{"name": ""}</tool_call>', '<tool_call>{"name": ""}</tool_call>'),
    Recorded("hermes", "half of a pair", '<tool_call>{"name": "\\ud800"}</tool_call>', '<tool_call>{"name": "\\ud800"}</tool_call>'),
    Recorded(
        "hermes",
        "arguments that are none",
        '<tool_call>{"name": "now", "arguments": 5}</tool_call>',
        '<tool_call>{"name": "now", "arguments": 5}</tool_call>',
    ),
    Recorded(
        "hermes",
        "a list that breaks off",
        '<tool_call>[{"name": "now", "arguments": {}}, {"nam',
        ', {"nam',
        (("now", "{}"),),
    ),
]

GENERIC = [
    Recorded(
        "json",
        "plain",
        'Sets are written {1, 2}, lists [1, 2].\n```python\nx = {"name": 1}\n```\n',
        'Sets are written {1, 2}, lists [1, 2].\n```python\nx = {"name": 1}\n```\n',
    ),
    Recorded("json", "an answer in JSON", '{"name": "Ada", "age": 36}', '{"name": "Ada", "age": 36}'),
    Recorded("json", "one", '{"name": "now", "arguments": {}}', calls=(("now", "{}"),)),
    Recorded("json", "parameters", f'{{"type": "function", "name": "book", "parameters": {NESTED}}}', calls=(("book", NESTED),)),
    Recorded(
        "json",
        "in a fence, behind text",
        'I will look.\n```json\n[\n  {"name": "now", "arguments": {}},\n  {"name": "get_weather", "arguments": {"a": 1}}\n]\n```\nSoon.',
        "I will look.\nSoon.",
        (("now", "{}"), ("get_weather", '{"a": 1}')),
    ),
    Recorded("json", "a fence that is none", "```\n{a}\n```", "```\n{a}\n```"),
    Recorded("json", "behind words", 'So: {"name": "now", "arguments": {}} and more', "So: and more", (("now", "{}"),)),
]

LLAMA3 = [
    Recorded("llama3_json", "one", '{"name": "get_weather", "parameters": {"city": "Lima"}}', calls=(("get_weather", '{"city": "Lima"}'),)),
    Recorded(
        "llama3_json",
        "several, tagged",
        '<|python_tag|>{"name": "now", "parameters": {}}; {"name": "get_weather", "parameters": {"city": "a;b"}};'
        '{"name": "now", "arguments": {}}',
        calls=(("now", "{}"), ("get_weather", '{"city": "a;b"}'), ("now", "{}")),
    ),
    Recorded("llama3_json", "a tag alone", '<|python_tag|>print("{}")', '<|python_tag|>print("{}")'),
]

TEXTS = [*HERMES, *GENERIC, *LLAMA3]
