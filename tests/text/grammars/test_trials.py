"""Grammars on trial: hostile ones are refused in time, and others never hear of them."""

from __future__ import annotations

import json

import pytest
from tiny_tokenizers import byte_level_tokenizer

from headway.server.text.grammars.library import compiled, library_form
from headway.server.text.grammars.trials import Trials
from headway.server.text.grammars.vocabulary import Vocabulary, library_tokenizer, vocabulary_of
from headway.server.types import Grammar

TOKENIZER = byte_level_tokenizer()


@pytest.fixture(scope="module")
def trials() -> Trials:
    return Trials(vocabulary_of(TOKENIZER, TOKENIZER.vocab_size))


def check(trials: Trials, kind: str, source: str) -> None:
    trials.check(library_form(Grammar(kind, source), {}))


def test_what_never_ends_is_refused_and_the_next_is_checked(trials: Trials) -> None:
    with pytest.raises(ValueError, match="takes more than 5 s"):
        check(trials, "json_schema", json.dumps({"type": "integer", "multipleOf": 9_999_991}))
    check(trials, "regex", "a+")
    check(trials, "choice", '["a", "b"]')


def test_a_long_text_is_followed_in_time_whatever_the_longest_token() -> None:
    tokens = [*(bytes([byte]) for byte in range(256)), *(b" " * num for num in range(2, 250)), b"<end>"]
    trials = Trials(Vocabulary(tokens, [len(tokens) - 1]))
    check(trials, "choice", json.dumps(["every word of it " * 1000]))


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}])
def test_what_nothing_can_satisfy_is_refused(trials: Trials, schema: object) -> None:
    with pytest.raises(ValueError, match="satisfies it"):
        check(trials, "json_schema", json.dumps(schema))


def test_a_bad_grammar_is_refused_with_the_librarys_reason(trials: Trials) -> None:
    with pytest.raises(ValueError, match="unknown name"):
        check(trials, "grammar", "start: nobody")


@pytest.mark.parametrize(
    ("kind", "source", "answer"),
    [
        ("choice", json.dumps([f"choice {i}" for i in range(4096)]), "choice 4000"),
        ("json_schema", json.dumps({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(600)}}), '{"p1": "x"}'),
    ],
)
def test_what_is_large_but_honest_can_be_followed(kind: str, source: str, answer: str) -> None:
    matcher = compiled(library_form(Grammar(kind, source), {}), library_tokenizer(TOKENIZER, TOKENIZER.vocab_size))
    assert matcher.consume_tokens(TOKENIZER.encode(answer, add_special_tokens=False))
    assert matcher.is_accepting()
