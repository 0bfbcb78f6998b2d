"""From hidden states to tokens: what a runner asks for, and how it is done where one process has all of the head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from headway.server.engine.logprobs import prompt_logprobs
from headway.server.engine.resident import Resident
from headway.server.engine.sampler import ChosenTokens, SamplingState
from headway.server.types import SamplingParams, TokenLogprobs


class TokenChoice(Protocol):
    """Knows the sampling options of the runner's rows. ``is_alone``: no other process takes part in a step, so that one which broke can
    be computed again."""

    is_alone: bool

    def add(self, row: int, sampling: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        """As SamplingState.add."""
        ...

    def remove(self, row: int) -> None: ...

    def append(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        """As SamplingState.append."""
        ...

    def prepare(self, hidden: Tensor, rows: Sequence[int]) -> Callable[[], ChosenTokens]:
        """Sets going what needs none of the tokens of the step before; the rest is done when the result is called. ``hidden`` [L, H],
        line i for ``rows[i]``."""
        ...

    def score_prompt(self, hidden: Tensor, target_ids: Sequence[int], num_top: int) -> list[TokenLogprobs]:
        """How likely each prompt token was: ``hidden`` [n, H] predicts ``target_ids`` [n]. See logprobs.prompt_logprobs."""
        ...


class LocalChoice:
    """See TokenChoice: this process has the whole head, and so all logits."""

    def __init__(self, resident: Resident, sampling: SamplingState, *, is_alone: bool = True) -> None:
        self.is_alone = is_alone
        self._resident = resident
        self._sampling = sampling
        self.add, self.remove, self.append = sampling.add, sampling.remove, sampling.append

    def prepare(self, hidden: Tensor, rows: Sequence[int]) -> Callable[[], ChosenTokens]:
        logits = self._resident.model.logits(hidden)
        return lambda: self._sampling.choose(logits, rows)

    def score_prompt(self, hidden: Tensor, target_ids: Sequence[int], num_top: int) -> list[TokenLogprobs]:
        return prompt_logprobs(self._resident.model.logits(hidden), target_ids, num_top)
