"""Rows in their grammars, where the library gives up on one."""

from __future__ import annotations

import torch
from tiny_tokenizers import byte_level_tokenizer

from headway.server.engine.structured.compiler import GrammarCompiler
from headway.server.engine.structured.state import GrammarState
from headway.server.text.grammars.library import library_form
from headway.server.types import Grammar, SamplingParams

TOKENIZER = byte_level_tokenizer()


def test_a_row_that_left_its_grammar_is_told_each_time_and_breaks_no_step() -> None:
    state = GrammarState(GrammarCompiler(lambda: TOKENIZER, TOKENIZER.vocab_size))
    form = library_form(Grammar("regex", "ab"), {})
    state.add(0, SamplingParams(grammar=Grammar("checked", form)), [1], 1)
    state.append([0], TOKENIZER.encode("x", add_special_tokens=False))
    for _ in range(2):
        outcome = state.apply(torch.zeros(1, TOKENIZER.vocab_size), [0])
        assert outcome is not None
        assert "left its grammar" in outcome.errors[0].text
