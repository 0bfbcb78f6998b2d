"""What the sampler asks of an option that changes logits: bias, penalties, bans, processors of the user, grammars, thinking budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from headway.server.engine.batch import RowError
from headway.server.types import SamplingParams


@dataclass(slots=True, frozen=True)
class Outcome:
    """What is to be said of the lines of a step: ``errors`` end their requests, ``complete`` are answers to which nothing may be added."""

    errors: Mapping[int, RowError] = field(default_factory=dict)
    complete: frozenset[int] = frozenset()


class LogitsState(Protocol):
    """Knows the rows that have the option; with others every method does nothing, and at next to no cost."""

    def add(self, row: int, sampling: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int) -> RowError | None:
        """``token_ids`` is the prompt and, after a preemption, what was generated. The row must be unknown.

        Returns why it can't have what it asks for; it is removed all the same.
        """
        ...

    def remove(self, row: int) -> None: ...

    def append(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        """One output token an entry; a row may come more than once."""
        ...

    def apply(self, logits: Tensor, rows: Sequence[int]) -> Outcome | None:
        """Changes, in place, those lines of ``logits`` [L, V] whose row (parallel in ``rows``) has the option; no state."""
        ...
