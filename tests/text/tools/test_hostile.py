"""No answer breaks a parser or makes it slow: deep, long, cut, strange."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_texts import TOOLS, function, said

from headway.server.text.tools.constrained import NamedParser, RequiredParser
from headway.server.text.tools.parser import ToolParser
from headway.server.text.tools.reader import Reader
from headway.server.text.tools.registry import TOOL_PARSERS, make_tool_parser

CALL = '{"name": "f", "arguments": '
# One name for each that reads differently.
DIFFERENT = sorted({function: name for name, function in TOOL_PARSERS.items()}.values())
# What is repeated, and what stands before it.
REPEATED = {
    "words": ("", "word "),
    "line breaks": ("", "\n"),
    "begun marks": ("", "<tool_call <function= [TOOL_CALLS <|tool_call"),
    "hermes": ("", "<tool_call>"),
    "hermes ends": ("", "</tool_call>"),
    "empty calls": ("", f"<tool_call>{CALL}{{}}}}</tool_call>\n"),
    "deep objects": (f"<tool_call>{CALL}", '{"a":'),
    "deep lists": (f"<tool_call>{CALL}", "["),
    "deep calls": ("<tool_call>", '{"name":'),
    "bare brackets": ("", "[{"),
    "bare calls that break off": ("", CALL),
    "a long name": ('<tool_call>{"name": "', "x"),
    "a long text": (f'<tool_call>{CALL}{{"a": "', "x"),
    "escapes": (f'<tool_call>{CALL}{{"a": "', '\\"\\\\'),
    "held arguments": ('<tool_call>{"arguments": {"a": "', "x"),
    "fences": ("", "```json\n"),
    "tokens of Mistral": ("", "[TOOL_CALLS]"),
    "names of Mistral": ("[TOOL_CALLS]", "name"),
    "tokens of DeepSeek": ("", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"),
    "Python": ("[f(a=", "["),
    "signs of Python": ("[f(a=", "-"),
    "texts of Python": ("[f(a=", "'x' "),
    "calls of Python": ("[", "f(a=1), "),
    "functions": ("", "<function=f>"),
    "parameters": ("<function=f>", "<parameter=a>1"),
    "a parameter": ("<function=get_weather><parameter=city>", "x\n"),
    "keys of GLM": ("<tool_call>f\n", "<arg_key>a"),
}


@contextmanager
def counted_lines() -> Iterator[list[int]]:
    """Counts the lines that the parsers run: work without a clock."""
    num_lines = [0]

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if "/text/tools/" not in frame.f_code.co_filename:
            return None
        num_lines[0] += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield num_lines
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("label", REPEATED)
def test_work_grows_with_the_text_only(label: str, in_pieces: bool) -> None:
    begin, unit = REPEATED[label]
    for name in DIFFERENT:
        few, many = (_work(name, begin + unit * num, in_pieces=in_pieces) for num in (15, 60))
        assert many <= 4.2 * few + 100, f"{name} runs {many} lines for four times what took {few}"


@pytest.mark.parametrize("label", REPEATED)
def test_little_is_left_unread(label: str) -> None:
    """What is unread is copied with every piece: if it grew, time would grow with its square."""
    begin, unit = REPEATED[label]
    for name in DIFFERENT:
        parser = make_tool_parser(name, TOOLS)
        assert isinstance(parser, ToolParser)
        for character in begin + unit * 40:
            parser.push(character, [])
            assert parser._reader.num_unread < 40, name


@pytest.mark.parametrize("label", REPEATED)
def test_long_answers_are_read(label: str) -> None:
    begin, unit = REPEATED[label]
    for name in DIFFERENT:
        said(make_tool_parser(name, TOOLS), [begin + unit * (30_000 // len(unit))])


def _work(name: str, text: str, *, in_pieces: bool) -> int:
    with counted_lines() as lines:
        said(make_tool_parser(name, TOOLS), text if in_pieces else [text])
    return lines[0]


# Without the bars of tokens that wrap calls and are dropped.
@given(text=st.text(st.characters(exclude_characters="|｜", exclude_categories=["Cs"])), tools=st.sampled_from([TOOLS, []]))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read(text: str, tools: Any) -> None:
    for name in TOOL_PARSERS:
        result = said(make_tool_parser(name, tools), [text])
        if not result.calls:
            assert result.content.split() == text.split()


@given(text=st.text('{}[]":,\\ namergumts"', max_size=60))
@settings(max_examples=200, deadline=None)
def test_what_a_grammar_lets_through_is_read_anyhow(text: str) -> None:
    for parser in (RequiredParser(), NamedParser("f")):
        result = said(parser, [text])
        if not result.calls:  # all is content, but for a list that is cut off
            assert text.startswith(result.content)
            assert text.removeprefix(result.content).lstrip()[:1] in ("", "[")


@pytest.mark.parametrize(
    "schema", [None, 5, "x", [], {"properties": 5}, {"properties": {"a": 5}}, {"properties": {"a": {"type": [1, "x"]}}}]
)
def test_strange_schemas_are_no_schemas(schema: object) -> None:
    tools: list[Any] = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    result = said(make_tool_parser("qwen3_coder", tools), ["<function=f><parameter=a>x</parameter></function>"])
    assert result.calls == [("f", '{"a": "x"}')]


def test_a_schema_without_end() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(5_000):
        schema = {"anyOf": [schema, {"type": "string"}]}
    tools = [function("f", a=schema)]
    result = said(make_tool_parser("qwen3_coder", tools), ["<function=f><parameter=a>5</parameter></function>"])
    assert result.calls == [("f", '{"a": 5}')]


def test_unread_text_is_what_was_not_taken() -> None:
    reader = Reader()
    reader.feed("abc")
    assert reader.take(2) == "ab"
    reader.feed("d")
    assert (reader.num_unread, reader.take(2)) == (2, "cd")


TEXT = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=20)  # a "<" may end an element
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT


@given(value=st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=10))
@settings(max_examples=200, deadline=None)
def test_values_of_python_and_xml_become_json(value: Any) -> None:
    (call,) = said(make_tool_parser("pythonic", TOOLS), [f"[f(a={value!r})]"]).calls
    assert json.loads(call[1]) == {"a": value}
    text = json.dumps(value)
    (call,) = said(
        make_tool_parser("qwen3_coder", [function("f", a={})]), [f"<function=f><parameter=a>{text}</parameter></function>"]
    ).calls
    assert json.loads(call[1]) == {"a": text if isinstance(value, str) else value}
