"""What thinking_token_budget means to a family of models, in tokens."""

from __future__ import annotations

from collections.abc import Sequence

from headway.server.errors import RequestError
from headway.server.text.reasoning.families import FAMILIES, HARMONY
from headway.server.text.tokenizer import Tokenizer
from headway.server.types import ThinkingBudget

# A message of gpt-oss's reasoning ends with one token, but then the model may begin another; what is forced begins the answer proper.
_HARMONY_START = ("<|channel|>", "analysis", "<|message|>")
_HARMONY_FORCED = ("<|end|>", "<|start|>", "assistant", "<|channel|>", "final", "<|message|>")


def thinking_budget(name: str, tokenizer: Tokenizer, num_tokens: int, *, is_open: bool) -> ThinkingBudget:
    """For an answer that the parser ``name`` reads; ``is_open`` as for ``make_reasoning_parser``.

    Raises RequestError where the marks are no tokens of their own: the engine knows the reasoning by its tokens only.
    """
    marks = FAMILIES[name]
    start, forced = (_HARMONY_START, _HARMONY_FORCED) if name == HARMONY else (marks.start[:1], marks.end[:1])
    may_restart = name == HARMONY
    forced_ids = _ids_of(forced, tokenizer)
    # A model whose prompts begin the reasoning may have no start mark.
    start_ids = () if is_open and not may_restart else _ids_of(start, tokenizer)
    return ThinkingBudget(num_tokens, start_ids, forced_ids[0], forced_ids, is_open, may_restart)


def can_limit_thinking(name: str | None, tokenizer: Tokenizer) -> bool:
    """Whether ``thinking_budget`` can be had for an answer that the parser ``name`` reads."""
    if name is None:
        return False
    try:
        thinking_budget(name, tokenizer, 0, is_open=False)
    except RequestError:
        return False
    return True


def _ids_of(tokens: Sequence[str], tokenizer: Tokenizer) -> tuple[int, ...]:
    ids = [tokenizer.token_to_id(token) for token in tokens]
    known = tuple(token_id for token_id in ids if token_id is not None)
    if len(known) < len(ids):
        raise RequestError(
            "thinking_token_budget needs a model that marks its reasoning with tokens of their own, which this one does not; leave it out.",
            "thinking_token_budget",
        )
    return known
