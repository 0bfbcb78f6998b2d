"""From a grammar as it was asked for to the grammar library's own form, and from that to what follows an answer.

llguidance: docs/structured_outputs.md says why. It recurses over what it compiles, so that happens in ``compiling_pool`` only.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from headway.server.text.grammars.schema import prepared
from headway.server.text.grammars.structural_tag import parts_of_tag
from headway.server.types import Grammar
from headway.server.words import cut

if TYPE_CHECKING:
    import llguidance

# Blanks and line breaks, but no endless ones: small models fall into them and never come out.
_BLANKS = r"[\x20\x0A\x0D\x09]{1,100}"
_MAX_REASON = 400
# A schema of 256 KiB whose definitions name each other in a row overflows 8 MiB at a sixth of its length, which ends the process:
# tried (2026-11) up to the whole length with this much, of which the system maps what is touched.
_STACK_BYTES = 512 << 20
# Of grammars that a user writes. A grammar of 60 characters can hold the parser for minutes over one token ("aaaaaaaa" in many ways):
# with these limits it is 50 ms, then an error. Schemas are not ambiguous in that way and keep the library's own, 2000 and 50000, which
# are what an object with 499 optional properties needs.
_MAX_ROW_ITEMS, _MAX_STEP_ITEMS = 500, 10_000
_MAX_GRAMMAR_CHARS = 64 * 1024
_MAX_GBNF_RULES = 500  # 0.2 s to translate, and four times that for twice as many
# Of lexers: (a{1000}){1000} takes 0.2 s with this, 2.4 s with the library's own. A state is 1 to 2 kB.
_LEXER_FUEL, _MAX_LEXER_STATES = 250_000, 50_000
_TRIAL_TOKENS, _TRIAL_S = 16, 1.0


def compiling_pool() -> ThreadPoolExecutor:
    """One thread, with the stack that compiling needs."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="headway-grammar")
    usual = threading.stack_size(_STACK_BYTES)
    try:
        pool.submit(lambda: None)  # starts the thread
    finally:
        threading.stack_size(usual)
    return pool


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
            parts = [{"lark_grammar": "start: CHOICE\nCHOICE: " + " | ".join(texts)}]  # one lexeme: any number of them is no work
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
    blanks = {"whitespace_flexible": False} if grammar.whitespace == "" else {"whitespace_pattern": grammar.whitespace or _BLANKS}
    return prepared(schema, closes_objects=grammar.closes_objects) | {"x-guidance": blanks}


def _lark(text: str) -> str:
    """A Lark grammar as it is, a GBNF one in Lark."""
    from llguidance.gbnf_to_lark import any_to_lark

    if len(text) > _MAX_GRAMMAR_CHARS:
        raise ValueError(f"a grammar may have {_MAX_GRAMMAR_CHARS} characters, and this one has {len(text)}")
    if (num_rules := text.count("::=")) > _MAX_GBNF_RULES:
        raise ValueError(f"a GBNF grammar may have {_MAX_GBNF_RULES} rules, and this one has {num_rules}: write it in Lark")
    try:
        return any_to_lark(text)
    except RecursionError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise ValueError(str(error)) from error


def compiled(form: str, tokenizer: llguidance.LLTokenizer) -> llguidance.LLMatcher:
    """What follows an answer, at its beginning. In ``compiling_pool``, without the interpreter's lock.

    Raises ValueError with the library's reason.
    """
    import llguidance

    matcher = llguidance.LLMatcher(tokenizer, form, log_level=0, limits=_limits(form))
    if matcher.is_error():
        raise ValueError(reason(matcher))
    return matcher


def try_out(matcher: llguidance.LLMatcher, vocab_size: int) -> None:
    """A few steps into the grammar: some can't be followed though they compile. Raises ValueError."""
    from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

    allowed = allocate_token_bitmask(1, vocab_size + 1)
    bits = allowed.view("uint8")
    deadline = time.monotonic() + _TRIAL_S
    for _ in range(_TRIAL_TOKENS):
        fill_next_token_bitmask(matcher, allowed)
        if matcher.is_error():
            raise ValueError(reason(matcher))
        if time.monotonic() > deadline:
            raise ValueError("following it takes too long; write it with fewer repetitions and alternatives.")
        first = next((8 * at + (byte & -byte).bit_length() - 1 for at, byte in enumerate(bits[0].tolist()) if byte), vocab_size)
        if first == vocab_size:
            return
        matcher.consume_token(first)


def reason(matcher: llguidance.LLMatcher) -> str:
    """Why it is in an error state, in one line. Lines that begin with blanks show the text at fault, which its author has."""
    text = matcher.get_error().replace("<non-verbose/>", "").replace("NoExtensionBias", "no text satisfies it")
    return cut(" ".join(line.rstrip() for line in text.splitlines() if line and not line[0].isspace()), _MAX_REASON)


def _limits(form: str) -> llguidance.LLParserLimits:
    import llguidance

    is_free = any("lark_grammar" in part for part in json.loads(form)["grammars"])
    return llguidance.LLParserLimits(
        max_items_in_row=_MAX_ROW_ITEMS if is_free else None,
        step_max_items=_MAX_STEP_ITEMS if is_free else None,
        initial_lexer_fuel=_LEXER_FUEL,
        max_lexer_states=_MAX_LEXER_STATES,
        verbose_errors=False,
    )
