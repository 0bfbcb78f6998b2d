"""From a grammar as it was asked for to the grammar library's own form, and from that to what follows an answer.

llguidance: docs/structured_outputs.md says why.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headway.server.text.grammars.schema import closed
from headway.server.text.grammars.structural_tag import parts_of_tag
from headway.server.types import Grammar
from headway.server.words import cut

if TYPE_CHECKING:
    import llguidance

# Blanks and line breaks, but no endless ones: small models fall into them and never come out.
_BLANKS = r"[\x20\x0A\x0D\x09]{1,100}"
_MAX_REASON = 400
_MAX_ITEMS_IN_ROW = 16_000


def library_form(grammar: Grammar, special: Mapping[str, int]) -> str:
    """The text that ``compiled`` takes. ``special``: tokens that no text holds, and their ids, for structural tags.

    Raises ValueError for what can't be translated; most faults are found by ``compiled`` only.
    """
    match grammar.kind:
        case "json_schema":
            parts = [{"json_schema": _written(json.loads(grammar.source), grammar)}]
        case "regex":
            from llguidance import regex_to_lark

            parts = [{"lark_grammar": f"start: /{regex_to_lark(grammar.source, '')}/"}]
        case "choice":
            texts = [json.dumps(text, ensure_ascii=False) for text in json.loads(grammar.source)]
            # One lexeme: as alternatives of a rule each would be an item in a row of the parser, which holds a few thousand.
            parts = [{"lark_grammar": "start: CHOICE\nCHOICE: " + " | ".join(texts)}]
        case "grammar":
            parts = [{"lark_grammar": _lark(grammar.source)}]
        case "structural_tag":
            parts = parts_of_tag(grammar.source, special=special, written=lambda schema: _written(schema, grammar), lark_of=_lark)
        case "checked":
            return grammar.source
    return json.dumps({"grammars": parts}, ensure_ascii=False)


def _written(schema: Any, grammar: Grammar) -> Any:
    """A JSON schema that also says how the JSON is written."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        return schema  # the library says what is wrong with it
    if grammar.closes_objects:
        schema = closed(schema)
    blanks = {"whitespace_flexible": False} if grammar.whitespace == "" else {"whitespace_pattern": grammar.whitespace or _BLANKS}
    return schema | {"x-guidance": blanks}


def _lark(text: str) -> str:
    """A Lark grammar as it is, a GBNF one in Lark."""
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return any_to_lark(text)
    except RecursionError as error:
        raise ValueError("the grammar is nested too deeply") from error
    except Exception as error:  # the library raises bare Exception
        raise ValueError(str(error)) from error


def compiled(form: str, tokenizer: llguidance.LLTokenizer) -> llguidance.LLMatcher:
    """What follows an answer, at its beginning. Runs without the interpreter's lock. Raises ValueError with the library's reason."""
    import llguidance

    matcher = llguidance.LLMatcher(tokenizer, form, log_level=0, limits=_limits())
    if matcher.is_error():
        raise ValueError(reason(matcher))
    return matcher


def checked(form: str, tokenizer: llguidance.LLTokenizer) -> None:
    """Raises ValueError as ``compiled`` does, and for what no answer can begin with: some faults show only there."""
    import numpy as np
    from llguidance.numpy import fill_next_token_bitmask

    matcher = compiled(form, tokenizer)
    allowed = np.zeros((1, (tokenizer.vocab_size + 31) // 32), dtype=np.int32)
    fill_next_token_bitmask(matcher, allowed)
    if matcher.is_error():
        raise ValueError(f"nothing can satisfy it, or it is too large ({reason(matcher)})")


def reason(matcher: llguidance.LLMatcher) -> str:
    """Why it is in an error state, in one line. Lines that begin with blanks show the text at fault, which its author has."""
    lines = matcher.get_error().splitlines()
    return cut(" ".join(line.rstrip() for line in lines if line and not line[0].isspace()), _MAX_REASON)


def _limits() -> llguidance.LLParserLimits:
    import llguidance

    # The library's own bound on a row, 2000 items, is passed by 500 optional properties.
    return llguidance.LLParserLimits(verbose_errors=False, max_items_in_row=_MAX_ITEMS_IN_ROW)
