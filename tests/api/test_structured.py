"""Fields that constrain an answer: what the engine gets of them, and the 400s of those that can't be done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import llguidance
import pytest
from api_server import ApiServer
from tiny_tokenizers import byte_level_tokenizer

from headway.server.api.grammars import GrammarChecker
from headway.server.config.structured import StructuredConfig
from headway.server.text.grammars.library import compiled
from headway.server.text.grammars.vocabulary import library_tokenizer
from headway.server.types import Grammar

CHAT = "/v1/chat/completions"
BODIES: dict[str, dict[str, Any]] = {CHAT: {"messages": [{"role": "user", "content": "x"}]}, "/v1/completions": {"prompt": "x"}}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TAG = {"type": "structural_tag", "structures": [{"begin": "<f>", "schema": CITY, "end": "</f>"}], "triggers": ["<f>"]}
PATHS = pytest.mark.parametrize("path", BODIES)


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


def grammar_of(server: ApiServer, body: dict[str, Any], path: str = CHAT) -> Grammar | None:
    answer = server.post(path, {**BODIES[path], **body})
    assert answer.status_code == 200, answer.text
    return server.engine.requests[-1].sampling.grammar


def takes(server: ApiServer, grammar: Grammar | None, text: str) -> bool:
    """As the engine would compile it."""
    assert grammar is not None
    assert grammar.kind == "checked"
    matcher = compiled(grammar.source, _tokens(server))
    token_ids = server.tokenizer.encode(text, add_special_tokens=False)
    return matcher.try_consume_tokens(token_ids) == len(token_ids) and matcher.is_accepting()


def _tokens(server: ApiServer) -> llguidance.LLTokenizer:
    return library_tokenizer(server.tokenizer, server.tokenizer.vocab_size)


@PATHS
@pytest.mark.parametrize(
    ("body", "taken", "refused"),
    [
        ({"response_format": {"type": "json_object"}}, '{"a": [1]}', "[1]"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": CITY}}}, '{"city": "Rome"}', "{}"),
        ({"response_format": TAG}, 'go <f>{"city": ""}</f>', "<f>{}</f>"),
        ({"structured_outputs": {"json": CITY}}, '{"city": "Rome"}', "{}"),
        ({"structured_outputs": {"json": json.dumps(CITY)}}, '{"city": "Rome"}', "{}"),
        ({"structured_outputs": {"json_object": True}}, "{}", "1"),
        ({"structured_outputs": {"regex": r"\d{3}"}}, "123", "12"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes", "y"),
        ({"structured_outputs": {"grammar": 'root ::= "a"+'}}, "aa", "b"),
        ({"structured_outputs": {"structural_tag": json.dumps(TAG)}}, "free", "<f>{}</f>"),
        ({"guided_json": CITY}, '{"city": "Rome"}', "{}"),
        ({"guided_regex": "a+", "guided_decoding_backend": "auto"}, "aa", "b"),
        ({"guided_choice": ["yes", "no"]}, "no", "n"),
        ({"guided_grammar": 'start: "a"'}, "a", "b"),
        ({"structured_outputs": {"json": CITY, "disable_any_whitespace": True}}, '{"city":"Rome"}', '{"city": "Rome"}'),
        ({"structured_outputs": {"json": CITY, "whitespace_pattern": "[ ]"}}, '{ "city" : "Rome" }', '{  "city":"Rome"}'),
        ({"guided_json": CITY, "guided_whitespace_pattern": "[ ]"}, '{ "city" : "Rome" }', '{  "city":"Rome"}'),
        (
            {"structured_outputs": {"json": CITY, "disable_additional_properties": True}},
            '{"city": "Rome"}',
            '{"city": "Rome", "more": 1}',
        ),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"disable_any_whitespace": True}},
            '{"a":1}',
            '{"a": 1}',
        ),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_what_constrains_an_answer(server: ApiServer, path: str, body: dict[str, Any], taken: str, refused: str) -> None:
    grammar = grammar_of(server, body, path)
    assert takes(server, grammar, taken)
    assert not takes(server, grammar, refused)


@PATHS
@pytest.mark.parametrize(
    "body", [{}, {"response_format": {"type": "text"}}, {"guided_choice": []}, {"guided_decoding_backend": "guidance"}]
)
def test_no_constraint(server: ApiServer, path: str, body: dict[str, Any]) -> None:
    assert grammar_of(server, body, path) is None


@PATHS
@pytest.mark.parametrize(
    ("body", "param", "sentence"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is required"),
        (
            {"response_format": {"type": "text", "json_schema": {"schema": {}}}},
            "response_format.json_schema",
            "does not go with the type text",
        ),
        ({"response_format": {"type": "json_object", "schema": CITY}}, "response_format.schema", "not permitted"),
        ({"response_format": {"type": "structural_tag"}}, "response_format", "either a format, or structures"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
            "response_format.json_schema.schema",
            'Unimplemented keys: ["not"]',
        ),
        ({"structured_outputs": {}}, "structured_outputs", "needs exactly one"),
        ({"structured_outputs": {"disable_any_whitespace": True}}, "structured_outputs", "needs exactly one"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice", "send exactly one"),
        ({"structured_outputs": {"regex": "a"}, "guided_json": {}}, "guided_json", "send exactly one"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex", "send exactly one"),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex", "unclosed group"),
        ({"structured_outputs": {"regex": "a", "whitespace_pattern": " "}}, "structured_outputs.regex", "not about JSON"),
        (
            {"structured_outputs": {"json": {}, "whitespace_pattern": " ", "disable_any_whitespace": True}},
            "structured_outputs.whitespace_pattern",
            "exclude each other",
        ),
        ({"structured_outputs": {"json": {}, "whitespace_pattern": "("}}, "structured_outputs.json", "unclosed group"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "not valid JSON"),
        ({"structured_outputs": {"json": "[1]"}}, "structured_outputs.json", "must be a JSON object"),
        ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice.1", "at least 1 character"),
        ({"structured_outputs": {"choice": ["a"] * 4097}}, "structured_outputs.choice", "at most 4096"),
        ({"structured_outputs": {"grammar": "start: x"}}, "structured_outputs.grammar", 'unknown name: "x"'),
        ({"structured_outputs": {"regex": "a" * 300_000}}, "structured_outputs.regex", "at most 262144"),
        ({"guided_whitespace_pattern": " "}, "structured_outputs", "needs exactly one"),
        ({"guided_json": {}, "guided_decoding_backend": "outlines"}, "guided_decoding_backend", "must be one of auto, guidance"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_what_can_t_be_done_is_refused(server: ApiServer, path: str, body: dict[str, Any], param: str, sentence: str) -> None:
    before = len(server.engine.requests)
    answer = server.post(path, {**BODIES[path], **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert sentence in error["message"]
    assert error["message"].endswith(".")
    assert len(server.engine.requests) == before


def test_every_choice_has_the_grammar(server: ApiServer) -> None:
    grammar_of(server, {"n": 3, "guided_regex": "a"})
    assert [request.sampling.grammar.source for request in server.engine.requests[-3:] if request.sampling.grammar] == [
        server.engine.requests[-1].sampling.grammar.source  # type: ignore[union-attr]
    ] * 3


def test_the_server_s_options_hold_for_every_request() -> None:
    options = {"disable_any_whitespace": True, "disable_additional_properties": True}
    with ApiServer(structured={"structured_outputs_config": options}) as server:
        grammar = grammar_of(server, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": CITY}}})
        assert takes(server, grammar, '{"city":"Rome"}')
        assert not takes(server, grammar, '{"city": "Rome"}')
        assert not takes(server, grammar, '{"city":"Rome","more":1}')
        spaced = grammar_of(server, {"structured_outputs": {"json": CITY, "whitespace_pattern": "[ ]"}})
        assert takes(server, spaced, '{ "city" : "Rome" }'), "a request's own pattern goes first"


@pytest.mark.parametrize(("options", "kept"), [({}, (7, 8)), ({"enable_in_reasoning": True}, ())])
def test_where_the_constraint_starts(options: dict[str, Any], kept: tuple[int, ...]) -> None:
    tokenizer = byte_level_tokenizer()
    checker = GrammarChecker(tokenizer, tokenizer.vocab_size, StructuredConfig(structured_outputs_config=options))
    assert asyncio.run(checker.checked(Grammar("regex", "a", starts_after=(7, 8)))).starts_after == kept


def test_a_caller_that_leaves_harms_no_other_of_the_same_grammar() -> None:
    tokenizer = byte_level_tokenizer()
    checker = GrammarChecker(tokenizer, tokenizer.vocab_size, StructuredConfig())

    async def two() -> Grammar:
        leaving, staying = (asyncio.create_task(checker.checked(Grammar("regex", "a"))) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        return await staying

    assert asyncio.run(two()).kind == "checked"
