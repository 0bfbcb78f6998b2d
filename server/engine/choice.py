"""From hidden states to tokens: what a runner asks for, and how it is done where one process has all of the head."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from headway.kernels.plans import LoraPlan
from headway.server.engine.logprobs import prompt_logprobs
from headway.server.engine.resident import Resident
from headway.server.engine.sampler import ChosenTokens, SamplingState
from headway.server.engine.transfers import upload
from headway.server.layers.forward import HeadOutput
from headway.server.models.decoder import DecoderModel
from headway.server.models.transformers_backend import TransformersModel
from headway.server.types import SamplingParams, TokenLogprobs


class Choose(Protocol):
    """What is left to do for the tokens of a step's lines; of one rank as of all, in the same order."""

    def __call__(self, lines: Sequence[int] | None = None, ahead: Sequence[int] = ()) -> ChosenTokens:
        """Of these lines, each once; None: of all. ``ahead``: see SamplingState.choose."""
        ...


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

    def depends_on_output(self, row: int) -> bool:
        """As SamplingState.depends_on_output."""
        ...

    def prepare(self, hidden: Tensor, rows: Sequence[int], lora: LoraPlan | None = None, head: HeadOutput | None = None) -> Choose:
        """Sets going what needs none of the tokens of the step before; the rest is done when the result is called. ``hidden`` [L, H],
        line i for ``rows[i]``. ``lora``: what adapters change about the head for these lines, None for nothing. ``head``: what the model
        said of ``hidden`` without being asked again, if it did."""
        ...

    def score_prompt(self, hidden: Tensor, target_ids: Sequence[int], num_top: int, lora: LoraPlan | None = None) -> list[TokenLogprobs]:
        """How likely each prompt token was: ``hidden`` [n, H] predicts ``target_ids`` [n]. See logprobs.prompt_logprobs.
        ``lora`` as above."""
        ...


class LocalChoice:
    """See TokenChoice: this process has the whole head, and so all logits."""

    def __init__(self, resident: Resident, sampling: SamplingState, *, is_alone: bool = True) -> None:
        self.is_alone = is_alone
        self._resident = resident
        self._sampling = sampling
        self.add, self.remove, self.append = sampling.add, sampling.remove, sampling.append
        self.depends_on_output = sampling.depends_on_output

    def prepare(self, hidden: Tensor, rows: Sequence[int], lora: LoraPlan | None = None, head: HeadOutput | None = None) -> Choose:
        if head is not None and self._sampling.take_top_only(rows):
            return partial(_most_likely, head.token_ids)
        logits = head.logits if head is not None else self._logits(hidden, lora)

        @torch.inference_mode()
        def choose(lines: Sequence[int] | None = None, ahead: Sequence[int] = ()) -> ChosenTokens:
            if lines is None or len(lines) == len(rows):
                return self._sampling.choose(logits, rows, ahead)
            picked = logits[upload(torch.tensor(lines), logits.device)]
            return self._sampling.choose(picked, [rows[line] for line in lines], ahead)

        return choose

    def score_prompt(self, hidden: Tensor, target_ids: Sequence[int], num_top: int, lora: LoraPlan | None = None) -> list[TokenLogprobs]:
        return prompt_logprobs(self._logits(hidden, lora), target_ids, num_top)

    def _logits(self, hidden: Tensor, lora: LoraPlan | None) -> Tensor:
        model = self._resident.model
        if lora is None:
            return model.logits(hidden)
        assert isinstance(model, DecoderModel | TransformersModel), "models that pool have no adapters"
        return model.logits(hidden, lora)


def _most_likely(token_ids: Tensor, lines: Sequence[int] | None = None, ahead: Sequence[int] = ()) -> ChosenTokens:
    """See Choose. All lines: those of rows whose token depends on no other."""
    assert lines is None or len(lines) == len(token_ids), "the most likely token depends on no other"
    return ChosenTokens.plain(token_ids)
