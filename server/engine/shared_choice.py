"""From hidden states to tokens where the same layers are on several ranks, for shares of the prompts: the first share's ranks choose."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headway.kernels.plans import LoraPlan
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.engine.choice import Choose, TokenChoice
from headway.server.engine.draw import depends_on_output
from headway.server.engine.sampler import ChosenTokens
from headway.server.layers.forward import HeadOutput
from headway.server.types import SamplingParams, TokenLogprobs


class LeadingChoice:
    """See TokenChoice. Tells the other shares what was chosen: one broadcast of 8 bytes for each row that is sampled."""

    is_alone = False

    def __init__(self, choice: TokenChoice, shares: TensorParallelGroup) -> None:
        """``choice``: of the ranks among which this share's layers are cut. ``shares``: the ranks that have the same part of the layers."""
        self._choice = choice
        self._shares = shares
        self.add, self.remove, self.append, self.score_prompt = choice.add, choice.remove, choice.append, choice.score_prompt
        self.depends_on_output = choice.depends_on_output

    def prepare(self, hidden: Tensor, rows: Sequence[int], lora: LoraPlan | None = None, head: HeadOutput | None = None) -> Choose:
        choose = self._choice.prepare(hidden, rows, lora, head)

        def choose_and_tell(lines: Sequence[int] | None = None, ahead: Sequence[int] = ()) -> ChosenTokens:
            chosen = choose(lines, ahead)
            self._shares.broadcast(chosen.for_other_ranks)
            return chosen

        return choose_and_tell


class FollowingChoice:
    """See TokenChoice. Takes what the first share's ranks chose."""

    is_alone = False

    def __init__(self, shares: TensorParallelGroup, *, has_processors: bool) -> None:
        """``has_processors``: see RankShare."""
        self._shares = shares
        self._has_processors = has_processors
        self._dependent: set[int] = set()  # rows: which broadcasts come follows from them

    def add(self, row: int, sampling: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        if self._has_processors or depends_on_output(sampling):
            self._dependent.add(row)

    def remove(self, row: int) -> None:
        self._dependent.discard(row)

    def append(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        """Nothing is decided here."""

    def depends_on_output(self, row: int) -> bool:
        return row in self._dependent

    def prepare(self, hidden: Tensor, rows: Sequence[int], lora: LoraPlan | None = None, head: HeadOutput | None = None) -> Choose:
        def choose(lines: Sequence[int] | None = None, ahead: Sequence[int] = ()) -> ChosenTokens:
            count = len(rows) if lines is None else len(lines)
            return ChosenTokens.plain(self._shares.broadcast(torch.empty(count, dtype=torch.int64, device=hidden.device)))

        return choose

    def score_prompt(self, hidden: Tensor, target_ids: Sequence[int], num_top: int, lora: LoraPlan | None = None) -> list[TokenLogprobs]:
        """Empty: rank 0 tells."""
        return []
