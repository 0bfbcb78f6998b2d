"""From grammars as requests ask for them to what a text may be, in the library's hands, and what is refused for its cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import llguidance
import pytest
from tiny_tokenizers import byte_level_tokenizer

from headway.server.text.grammars.library import compiled, compiling_pool, library_form, try_out
from headway.server.text.grammars.schema import prepared
from headway.server.text.grammars.vocabulary import library_tokenizer
from headway.server.types import Grammar

TOKENIZER = byte_level_tokenizer()
VOCAB_SIZE = TOKENIZER.vocab_size + 3  # a model often has more tokens than its tokenizer
EOS = TOKENIZER.eos_token_ids[0]
SPECIAL = {"<eos>": EOS, "<bos>": EOS - 1}
CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"], "additionalProperties": False}


@pytest.fixture(scope="module")
def tokens() -> llguidance.LLTokenizer:
    return library_tokenizer(TOKENIZER, VOCAB_SIZE)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with compiling_pool() as made:
        yield made


class Texts:
    """What a grammar takes."""

    def __init__(self, kind: str, source: Any, tokens: llguidance.LLTokenizer, **options: Any) -> None:
        text = source if isinstance(source, str) else json.dumps(source)
        self.matcher = compiled(library_form(Grammar(kind, text, **options), SPECIAL), tokens)  # type: ignore[arg-type]

    def take(self, text: str) -> bool:
        matcher = self.matcher.deep_copy()
        token_ids = TOKENIZER.encode(text, add_special_tokens=False)
        return matcher.try_consume_tokens(token_ids) == len(token_ids) and matcher.is_accepting()


def problem_of(kind: str, source: Any, tokens: llguidance.LLTokenizer) -> str:
    with pytest.raises(ValueError) as caught:
        try_out(Texts(kind, source, tokens).matcher, VOCAB_SIZE)
    return str(caught.value)


def test_json_schema(tokens: llguidance.LLTokenizer) -> None:
    texts = Texts("json_schema", CITY, tokens)
    assert all(texts.take(text) for text in ('{"city":"Rome"}', '{"city": "Oslo"}', '{\n  "city": "Oslo"\n}'))
    assert not any(texts.take(text) for text in ('{"city":"Bonn"}', "{}", '{"city":"Rome"', ' {"city":"Rome"}', '{"city":"Rome"} '))


def test_blanks_have_an_end(tokens: llguidance.LLTokenizer) -> None:
    texts = Texts("json_schema", CITY, tokens)
    assert texts.take('{"city":' + 100 * " " + '"Rome"}')
    assert not texts.take('{"city":' + 101 * " " + '"Rome"}')


@pytest.mark.parametrize(
    ("whitespace", "taken", "refused"), [("", '{"city":"Rome"}', '{"city": "Rome"}'), ("[ ]", '{ "city" : "Rome" }', "{}")]
)
def test_how_json_is_written(tokens: llguidance.LLTokenizer, whitespace: str, taken: str, refused: str) -> None:
    texts = Texts("json_schema", CITY, tokens, whitespace=whitespace)
    assert texts.take(taken)
    assert not texts.take(refused)


def test_true_is_any_json(tokens: llguidance.LLTokenizer) -> None:
    assert Texts("json_schema", "true", tokens).take('[1, {"a": null}]')


def test_regex_choice_and_grammars(tokens: llguidance.LLTokenizer) -> None:
    regex = Texts("regex", r"^[a-c]/\d{2}$", tokens)
    assert regex.take("b/42")
    assert not regex.take("d/42")
    choice = Texts("choice", ['a "b" \\', "a/b\n", "é"], tokens)
    assert all(choice.take(text) for text in ('a "b" \\', "a/b\n", "é"))
    assert not choice.take("a")
    for source in ('root ::= "a" b\nb ::= [0-9]+', 'start: "a" B\nB: /[0-9]+/'):
        grammar = Texts("grammar", source, tokens)
        assert grammar.take("a12")
        assert not grammar.take("a")


def test_very_many_choices(tokens: llguidance.LLTokenizer) -> None:
    texts = Texts("choice", [f"choice number {index}" for index in range(4096)], tokens)
    assert texts.take("choice number 4095")
    try_out(texts.matcher, VOCAB_SIZE)


def test_structural_tags_of_both_notations(tokens: llguidance.LLTokenizer) -> None:
    old = {"structures": [{"begin": "<f=w>", "schema": CITY, "end": "</f>"}], "triggers": ["<f="]}
    tag = {"type": "tag", "begin": "<f=w>", "content": {"type": "json_schema", "json_schema": CITY}, "end": "</f>"}
    new = {"type": "structural_tag", "format": {"type": "triggered_tags", "triggers": ["<f="], "tags": [tag]}}
    for source in (old, new):
        texts = Texts("structural_tag", source, tokens)
        assert texts.take("free")
        assert texts.take('so: <f=w>{"city":"Rome"}</f> and <f=w>{"city": "Oslo"}</f>.')
        assert not any(texts.take(text) for text in ("<f=x>", '<f=w>{"town"', '<f=w>{"city":"Rome"}'))


def test_special_tokens_in_structural_tags(tokens: llguidance.LLTokenizer) -> None:
    tag = {"type": "tag", "begin": "<bos>call ", "content": {"type": "any_text"}, "end": "<eos>"}
    source = {"format": {"type": "triggered_tags", "triggers": ["<bos>"], "tags": [tag], "at_least_one": True}}
    texts = Texts("structural_tag", source, tokens)
    assert texts.take("text <bos>call me<eos> text")
    assert not any(texts.take(text) for text in ("text", "text <bos>ring", "<bos>call me"))


@pytest.mark.parametrize(
    ("format", "taken", "refused"),
    [
        ({"type": "const_string", "value": "hello"}, "hello", "hell"),
        ({"type": "or", "elements": [{"type": "regex", "pattern": "a/+"}, {"type": "const_string", "value": "b"}]}, "a//", "ab"),
        ({"type": "sequence", "elements": [{"type": "const_string", "value": "x"}, {"type": "any_text"}]}, "x and more", "more"),
        ({"type": "tag", "begin": "<t>", "content": {"type": "any_text"}, "end": "</t>"}, "<t>a <b> </t>", "<t>a</t> b"),
        ({"type": "sequence", "elements": [{"type": "grammar", "grammar": 'root ::= "g"'}, {"type": "regex", "pattern": "1"}]}, "g1", "g"),
        ({"type": "optional", "content": {"type": "const_string", "value": "o"}}, "", "oo"),
        ({"type": "plus", "content": {"type": "const_string", "value": "o"}}, "oo", ""),
        ({"type": "star", "content": {"type": "const_string", "value": "o"}}, "", "a"),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else "",
)
def test_formats_of_structural_tags(tokens: llguidance.LLTokenizer, format: dict[str, Any], taken: str, refused: str) -> None:
    texts = Texts("structural_tag", {"format": format}, tokens)
    assert texts.take(taken)
    assert not texts.take(refused)


@pytest.mark.parametrize(("once", "twice"), [(False, True), (True, False)])
def test_tags_with_a_separator(tokens: llguidance.LLTokenizer, once: bool, twice: bool) -> None:
    tag = {"type": "tag", "begin": "<a>", "content": {"type": "const_string", "value": "1"}, "end": "</a>"}
    texts = Texts(
        "structural_tag", {"format": {"type": "tags_with_separator", "tags": [tag], "separator": ",", "stop_after_first": once}}, tokens
    )
    assert texts.take("<a>1</a>")
    assert texts.take("<a>1</a>,<a>1</a>") is twice


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({}, "either a format, or structures"),
        ({"format": {"type": "bar"}}, "Invalid value 'bar'"),
        ({"format": {"type": "tag", "begin": "a", "content": {"type": "any_text"}, "end": 3}}, "Expected `str`"),
        ({"format": {"type": "any_text", "max_tokens": 3}}, "unknown field `max_tokens`"),
        ({"structures": [{"begin": "a", "schema": {}, "end": ""}], "triggers": ["b"]}, "no trigger begins the tag 'a'"),
        ({"format": {"type": "sequence", "elements": [{"type": "any_text"}, {"type": "any_text"}]}}, "any_text can only be the last"),
        ({"format": {"type": "or", "elements": []}}, "needs elements"),
    ],
)
def test_structural_tags_that_say_nothing(tokens: llguidance.LLTokenizer, source: Any, reason: str) -> None:
    assert reason in problem_of("structural_tag", source, tokens)


@pytest.mark.parametrize(
    ("kind", "source", "reason"),
    [
        ("json_schema", {"type": "strin"}, "Invalid type: strin"),
        ("json_schema", {"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
        ("json_schema", {"$ref": "http://localhost/x"}, "does not fetch resources"),
        ("json_schema", {"$ref": "#"}, "no text satisfies it"),
        ("json_schema", "false", "schema is false"),
        ("regex", "(a", "unclosed group"),
        ("regex", "(?=a)b", "look-around"),
        ("grammar", "start: nowhere", 'unknown name: "nowhere"'),
        ("grammar", 'root ::= "a" (', "Expected ')'"),
        ("grammar", "", "No 'root' rule found"),
    ],
)
def test_the_library_s_reason(tokens: llguidance.LLTokenizer, kind: str, source: Any, reason: str) -> None:
    problem = problem_of(kind, source, tokens)
    assert reason in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("regex", "(a{1000}){1000}"),
        ("regex", "a?" * 100_000),
        ("json_schema", {"allOf": [{"anyOf": [{"properties": {f"{i}{j}": {"const": j}}} for j in range(3)]} for i in range(12)]}),
        ("grammar", "start: a0\n" + "\n".join(f'a{i}: "a" a{i + 1} | "b"' for i in range(4000))),
        ("grammar", "root ::= a0\n" + "\n".join(f'a{i} ::= a{i + 1} | "b"' for i in range(501)) + '\na501 ::= "c"'),
        ("structural_tag", {"format": {"type": "grammar", "grammar": 'start: "' + 65536 * "a" + '"'}}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_costs_too_much_is_refused(tokens: llguidance.LLTokenizer, pool: ThreadPoolExecutor, kind: str, source: Any) -> None:
    assert pool.submit(problem_of, kind, source, tokens).result(timeout=60)


def test_an_ambiguous_grammar_ends_in_an_error_and_not_in_minutes(tokens: llguidance.LLTokenizer) -> None:
    matcher = Texts("grammar", 'start: start "a" | start start start | ""', tokens).matcher
    token = TOKENIZER.encode("a", add_special_tokens=False)
    assert not matcher.consume_tokens(token * 600)
    assert "max is 500" in matcher.get_error()


def chain(link: Any, num_links: int) -> dict[str, Any]:
    """Definitions of which each is made of the next."""
    links = {str(index): link({"$ref": f"#/$defs/{index + 1}"}) for index in range(num_links)}
    return {"$defs": links | {str(num_links): {"type": "null"}}, "$ref": "#/$defs/0"}


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("json_schema", chain(lambda ref: ref, 8000)),
        ("json_schema", chain(lambda ref: {"properties": {"a": ref}}, 4000)),
        ("json_schema", chain(lambda ref: {"anyOf": [ref, {"type": "null"}]}, 4500)),
        ("grammar", "start: A0\n" + "\n".join(f"A{i}: A{i + 1}" for i in range(4500)) + '\nA4500: "c"'),
    ],
    ids=["refs", "objects", "unions", "terminals"],
)
def test_a_long_chain_does_not_overflow_the_stack(tokens: llguidance.LLTokenizer, pool: ThreadPoolExecutor, kind: str, source: Any) -> None:
    """It ended the process in a thread of the usual size, where nothing can be caught."""
    problem = pool.submit(Texts, kind, source, tokens).exception(timeout=60)
    assert problem is None or "too big" in str(problem)


def test_deep_nesting_is_refused(tokens: llguidance.LLTokenizer) -> None:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(200):
        schema = {"type": "array", "items": schema}
    assert "recursion limit" in problem_of("json_schema", schema, tokens)


def test_objects_are_closed_where_they_do_not_say_otherwise() -> None:
    inner = {"properties": {"enum": {"properties": {"b": {}}}}}
    values = {"enum": [{"properties": {}}], "default": {"properties": {}}}
    schema = {
        "properties": {"open": {"properties": {}, "additionalProperties": True}, "in": {"items": [inner]}, "values": values},
        "$defs": {"const": {"properties": {}}},
    }
    closed_inner = {"properties": {"enum": {"properties": {"b": {}}, "additionalProperties": False}}, "additionalProperties": False}
    assert prepared(schema, closes_objects=True) == {
        "properties": {"open": {"properties": {}, "additionalProperties": True}, "in": {"items": [closed_inner]}, "values": values},
        "$defs": {"const": {"properties": {}, "additionalProperties": False}},
        "additionalProperties": False,
    }
    assert prepared(schema, closes_objects=False) == schema


@pytest.mark.parametrize(
    ("format", "taken", "refused"),
    [
        ("date", ["2024-02-29", "2000-02-29", "1999-12-31"], ["2023-02-29", "1900-02-29", "2024-02-30", "2024-04-31", "0000-01-01"]),
        ("time", ["23:59:59Z", "10:00:00.5+01:00"], ["10:00:60Z", "10:00:00z", "24:00:00Z"]),
        ("date-time", ["2024-02-29T23:59:59Z"], ["2023-02-29T10:00:00Z", "2000-01-01T10:00:60Z"]),
    ],
)
def test_dates_and_times_are_exact(tokens: llguidance.LLTokenizer, format: str, taken: list[str], refused: list[str]) -> None:
    texts = Texts("json_schema", {"type": "string", "format": format, "allOf": [{"pattern": "^[12]|^0000"}]}, tokens)
    assert all(texts.take(f'"{text}"') for text in taken)
    assert not any(texts.take(f'"{text}"') for text in [*refused, "3024-01-01", "04:00:00Z"])
