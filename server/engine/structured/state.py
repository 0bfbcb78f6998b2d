"""Where the answers of the runner's rows stand in their grammars, and which tokens may follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.kernels.token_mask import forbid_tokens
from headway.server.engine.batch import RowError
from headway.server.engine.logits_state import Outcome
from headway.server.engine.structured.compiler import GrammarCompiler
from headway.server.engine.transfers import upload
from headway.server.text.grammars.library import reason
from headway.server.types import SamplingParams

if TYPE_CHECKING:
    import llguidance

_EVERY_TOKEN = -1  # a word of 32 bits that are set


@dataclass(slots=True)
class _Row:
    """``ends``: tokens that end the answer, allowed where the grammar may end. ``before``: the last tokens of the free part."""

    matcher: llguidance.LLMatcher
    ends: tuple[int, ...]
    starts_after: tuple[int, ...]
    is_free: bool
    before: list[int] = field(default_factory=list)
    error: str | None = None

    def append(self, token_ids: Sequence[int]) -> None:
        at = self._take_free(token_ids) if self.is_free else 0
        constrained = [token_id for token_id in token_ids[at:] if token_id not in self.ends]
        if constrained and self.error is None and not self.matcher.consume_tokens(constrained):
            self.error = f"The answer left its grammar: {reason(self.matcher)}"

    def _take_free(self, token_ids: Sequence[int]) -> int:
        """How many of them are free, those that end the free part among them."""
        length = len(self.starts_after)
        for at, token_id in enumerate(token_ids):
            self.before = [*self.before, token_id][-length:]
            if tuple(self.before) == self.starts_after:
                self.is_free = False
                return at + 1
        return len(token_ids)


class GrammarState:
    """See LogitsState. A line is complete where its grammar allows nothing more."""

    def __init__(self, compiler: GrammarCompiler | None) -> None:
        """None: no request has a grammar."""
        self._compiler = compiler
        self._rows: dict[int, _Row] = {}
        self._executor: llguidance.LLExecutor | None = None

    def add(self, row: int, sampling: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int) -> RowError | None:
        grammar = sampling.grammar
        if grammar is None:
            return None
        assert self._compiler is not None, "without a compiler no request has a grammar"
        # A tokenizer may name an end that the model has no score for.
        ends = tuple(end for end in (*sampling.eos_token_ids, *sampling.stop_token_ids) if end < self._compiler.vocab_size)
        try:
            matcher = self._compiler.matcher(grammar.source)
        except ValueError as error:
            return RowError(str(error), is_request_fault=True)
        self._rows[row] = state = _Row(matcher, ends, grammar.starts_after, bool(grammar.starts_after))
        state.append(token_ids[num_prompt_tokens:])
        return None

    def remove(self, row: int) -> None:
        self._rows.pop(row, None)

    def append(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        if self._rows:
            for row, token_id in zip(rows, token_ids, strict=True):
                if (state := self._rows.get(row)) is not None:
                    state.append([token_id])

    def apply(self, logits: Tensor, rows: Sequence[int]) -> Outcome | None:
        """On a GPU the masks are computed while the forward pass is still under way, and uploaded together."""
        held = [(line, state) for line, row in enumerate(rows) if (state := self._rows.get(row)) is not None and not state.is_free]
        if not held:
            return None
        allowed = self._allowed([state for _, state in held], logits.shape[1])
        may_go_on: list[bool] = np.any(allowed, axis=1).tolist()
        may_end = [state.error is None and state.matcher.is_accepting() for _, state in held]
        complete = frozenset(line for (line, _), ends, goes_on in zip(held, may_end, may_go_on, strict=True) if ends and not goes_on)
        for (_, state), words, ends in zip(held, allowed, may_end, strict=True):
            if ends:
                _allow(words, state.ends)
        lines = [line for line, _ in held]
        places = upload(torch.tensor(lines), logits.device)
        forbid_tokens(logits, upload(torch.from_numpy(allowed), logits.device), places)
        errors = {line: RowError(error, is_request_fault=True) for line, state in held if (error := _error(state)) is not None}
        return Outcome(errors, complete)

    def _allowed(self, states: Sequence[_Row], vocab_size: int) -> NDArray[np.int32]:
        """A bit for each token that may follow, [N, W]; none for the ends. All of a state in error."""
        allowed = np.full((len(states), vocab_size // 32 + 1), _EVERY_TOKEN, dtype=np.int32)
        healthy = [(state.matcher, at) for at, state in enumerate(states) if state.error is None]
        if healthy:  # the library refuses to do nothing
            self._fill(allowed, healthy)
        # The library's end is the token behind the vocabulary, and the only one from there on.
        allowed[:, vocab_size // 32] &= (1 << vocab_size % 32) - 1
        return allowed

    def _fill(self, allowed: NDArray[np.int32], matchers: list[tuple[llguidance.LLMatcher, int]]) -> None:
        """In parallel, without the interpreter's lock. A matcher that fails is in an error state from then on."""
        import llguidance
        from llguidance.numpy import fill_next_token_bitmask_par

        self._executor = self._executor or llguidance.LLExecutor()
        fill_next_token_bitmask_par(self._executor, matchers, allowed)


def _error(state: _Row) -> str | None:
    if state.error is None and state.matcher.is_error():
        state.error = f"The grammar can't be followed any further: {reason(state.matcher)}"
    return state.error


def _allow(words: NDArray[np.int32], token_ids: Sequence[int]) -> None:
    unsigned = words.view(np.uint32)
    for token_id in token_ids:
        unsigned[token_id // 32] |= np.uint32(1 << token_id % 32)
