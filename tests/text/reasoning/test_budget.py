"""thinking_token_budget in the tokens of a family."""

from __future__ import annotations

import pytest
from tiny_tokenizers import byte_level_backend
from tokenizers import AddedToken

from headway.server.errors import RequestError
from headway.server.text.reasoning.budget import thinking_budget
from headway.server.text.tokenizer import Tokenizer

HARMONY = ["<|start|>", "<|end|>", "<|channel|>", "<|message|>", "assistant", "analysis", "final"]


def tokenizer(*added: str) -> Tokenizer:
    backend = byte_level_backend()
    backend.add_tokens([AddedToken(token, normalized=False) for token in added])
    return Tokenizer(backend, special_tokens={})


def test_marks_that_are_tokens() -> None:
    known = tokenizer("<think>", "</think>")
    start, end = (known.token_to_id(token) for token in ("<think>", "</think>"))
    budget = thinking_budget("qwen3", known, 5, is_open=False)
    assert (budget.num_tokens, budget.start, budget.end, budget.forced, budget.may_restart) == (5, (start,), end, (end,), False)
    assert thinking_budget("qwen3", tokenizer("</think>"), 0, is_open=True).start == ()


def test_gpt_oss_goes_on_with_the_answer() -> None:
    known = tokenizer(*HARMONY)
    budget = thinking_budget("openai_gptoss", known, 5, is_open=False)
    assert known.decode(budget.start, skip_special_tokens=False) == "<|channel|>analysis<|message|>"
    assert known.decode(budget.forced, skip_special_tokens=False) == "<|end|><|start|>assistant<|channel|>final<|message|>"
    assert budget.end == known.token_to_id("<|end|>")
    assert budget.may_restart


@pytest.mark.parametrize(("name", "added"), [("granite", ()), ("qwen3", ("<think>",)), ("olmo3", ()), ("openai_gptoss", HARMONY[:-1])])
def test_marks_that_are_no_tokens(name: str, added: tuple[str, ...]) -> None:
    with pytest.raises(RequestError, match="tokens of their own") as raised:
        thinking_budget(name, tokenizer(*added), 5, is_open=False)
    assert raised.value.param == "thinking_token_budget"
