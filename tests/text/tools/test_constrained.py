"""Answers under a grammar for calls: all of it is a call, and what broke off is not lost."""

from __future__ import annotations

import pytest
from tool_texts import Said, said

from headway.server.text.tools.constrained import NamedParser, RequiredParser

ONE = '{"name": "now", "parameters": {}}'
REQUIRED = [
    (f" [{ONE}]", Said("", [("now", "{}")])),
    (f'[{ONE},\n {{"parameters": {{"a": [1]}}, "name": "f"}} ]\n', Said("", [("now", "{}"), ("f", '{"a": [1]}')])),
    (f'[{ONE}, {{"name": "f", "parameters": {{"a": "[', Said("", [("now", "{}"), ("f", '{"a": "[')])),
    (f'[{ONE}, {{"name": "f", "par', Said("", [("now", "{}")])),
    (f"[{ONE}, ", Said("", [("now", "{}")])),
    ('[{"name": "no', Said("", [])),
    ("[no call]", Said("[no call]", [])),
    ("[]", Said("[]", [])),
    ("", Said("", [])),
]
NAMED = [
    ('{"a": {"b": "}"}}', Said("", [("f", '{"a": {"b": "}"}}')])),
    (' \n{"a": 1}\n', Said("", [("f", '{"a": 1}')])),
    ('{"a": "1', Said("", [("f", '{"a": "1')])),
    ("{}", Said("", [("f", "{}")])),
    ("No {}", Said("No {}", [])),
    ("", Said("", [])),
]


@pytest.mark.parametrize(("text", "expected"), REQUIRED)
def test_a_list_of_calls(text: str, expected: Said) -> None:
    for at in range(len(text) + 1):
        assert said(RequiredParser(), [text[:at], text[at:]]) == expected
    assert said(RequiredParser(), list(text)) == expected


@pytest.mark.parametrize(("text", "expected"), NAMED)
def test_bare_arguments(text: str, expected: Said) -> None:
    for at in range(len(text) + 1):
        assert said(NamedParser("f"), [text[:at], text[at:]]) == expected
    assert said(NamedParser("f"), list(text)) == expected


def test_arguments_go_out_as_they_come() -> None:
    parser = NamedParser("f")
    first = parser.push('{"a"', []).tool_calls
    assert [(piece.index, piece.name, piece.arguments) for piece in first] == [(0, "f", '{"a"')]
    second = parser.push(': "b', []).tool_calls
    assert [(piece.index, piece.name, piece.arguments) for piece in second] == [(0, None, ': "b')]
