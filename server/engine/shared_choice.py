"""From hidden states to tokens where the same layers are on several ranks, for shares of the prompts: the first share's ranks choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from headway.server.distributed.groups import TensorParallelGroup
from headway.server.engine.choice import TokenChoice
from headway.server.engine.sampler import ChosenTokens
from headway.server.types import SamplingParams, TokenLogprobs


class LeadingChoice:
    """See TokenChoice. Tells the other shares what was chosen: one broadcast of 8 bytes for each row that is sampled."""

    is_alone = False

    def __init__(self, choice: TokenChoice, shares: TensorParallelGroup) -> None:
        """``choice``: of the ranks among which this share's layers are cut. ``shares``: the ranks that have the same part of the layers."""
        self._choice = choice
        self._shares = shares
        self.add, self.remove, self.append, self.score_prompt = choice.add, choice.remove, choice.append, choice.score_prompt

    def prepare(self, hidden: Tensor, rows: Sequence[int]) -> Callable[[], ChosenTokens]:
        choose = self._choice.prepare(hidden, rows)

        def choose_and_tell() -> ChosenTokens:
            chosen = choose()
            self._shares.broadcast(chosen.on_device)
            return chosen

        return choose_and_tell


class FollowingChoice:
    """See TokenChoice. Takes what the first share's ranks chose."""

    is_alone = False

    def __init__(self, shares: TensorParallelGroup) -> None:
        self._shares = shares

    def add(self, row: int, sampling: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        """How is not decided here."""

    def remove(self, row: int) -> None:
        """As ``add``."""

    def append(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        """As ``add``."""

    def prepare(self, hidden: Tensor, rows: Sequence[int]) -> Callable[[], ChosenTokens]:
        return lambda: ChosenTokens.plain(self._shares.broadcast(torch.empty(len(rows), dtype=torch.int64, device=hidden.device)))

    def score_prompt(self, hidden: Tensor, target_ids: Sequence[int], num_top: int) -> list[TokenLogprobs]:
        """Empty: rank 0 tells."""
        return []
