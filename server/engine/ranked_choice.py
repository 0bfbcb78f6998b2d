"""From hidden states to tokens where each rank has a part of the vocabulary. Rank 0 samples, and tells the others what it chose.

What is exchanged in a step that samples L rows over R ranks, beside the forward pass:
- if every row takes the model's most likely token and wants nothing else: each rank's highest logit with its token, 16 L bytes a rank,
  to all of them (one all-gather); logits stay where they are;
- else: all logits to rank 0 (one gather of L * vocabulary / R numbers a rank), and L tokens of 8 bytes back (one broadcast).
Prompt logprobs take one gather for each slice of the prompt that is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.kernels.plans import LoraPlan
from headway.kernels.sampling import BROKEN, sample_tokens
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.engine.choice import Choose
from headway.server.engine.draw import depends_on_output, wants_top_token_only
from headway.server.engine.logprobs import prompt_logprobs
from headway.server.engine.resident import Resident
from headway.server.engine.sampler import ChosenTokens, SamplingState
from headway.server.engine.transfers import upload
from headway.server.layers.forward import HeadOutput
from headway.server.models.decoder import DecoderModel
from headway.server.models.transformers_backend import TransformersModel
from headway.server.types import SamplingParams, TokenLogprobs


@dataclass(frozen=True, slots=True)
class RankShare:
    """``has_processors``: code of the user's may look at the logits of any row."""

    group: TensorParallelGroup
    vocab_size: int
    has_processors: bool


class RankedChoice:
    """See TokenChoice. All ranks know the options, and so which collectives come."""

    is_alone = False

    def __init__(self, resident: Resident, share: RankShare, sampling: SamplingState | None) -> None:
        """``sampling`` is rank 0's; the others have none."""
        self._resident = resident
        self._group = share.group
        self._vocab_size = share.vocab_size
        self._has_processors = share.has_processors
        self._sampling = sampling
        self._top_only: set[int] = set()  # rows
        self._dependent: set[int] = set()  # the same: see SamplingState.depends_on_output

    def add(self, row: int, sampling: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        if not self._has_processors and wants_top_token_only(sampling):
            self._top_only.add(row)
        if self._has_processors or depends_on_output(sampling):
            self._dependent.add(row)
        if self._sampling is not None:
            self._sampling.add(row, sampling, token_ids, num_prompt_tokens)

    def remove(self, row: int) -> None:
        self._top_only.discard(row)
        self._dependent.discard(row)
        if self._sampling is not None:
            self._sampling.remove(row)

    def append(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        if self._sampling is not None:
            self._sampling.append(rows, token_ids)

    def depends_on_output(self, row: int) -> bool:
        return row in self._dependent

    def prepare(self, hidden: Tensor, rows: Sequence[int], lora: LoraPlan | None = None, head: HeadOutput | None = None) -> Choose:
        assert head is None, "a head that is cut is asked by all ranks"
        local = self._local_logits(hidden, lora)
        most_likely = self._most_likely(local.float()) if self._top_only.issuperset(rows) else None
        logits = self._gathered(local) if most_likely is None else None

        @torch.inference_mode()
        def choose(lines: Sequence[int] | None = None, ahead: Sequence[int] = ()) -> ChosenTokens:
            if most_likely is not None:
                assert lines is None or len(lines) == len(rows), "the most likely token depends on no other"
                return ChosenTokens.plain(most_likely)
            if lines is None or len(lines) == len(rows):
                return self._choose(logits, rows, ahead, local.device)
            picked = logits[upload(torch.tensor(lines), local.device)] if logits is not None else None
            return self._choose(picked, [rows[line] for line in lines], ahead, local.device)

        return choose

    def score_prompt(self, hidden: Tensor, target_ids: Sequence[int], num_top: int, lora: LoraPlan | None = None) -> list[TokenLogprobs]:
        """Empty on the other ranks."""
        logits = self._gathered(self._local_logits(hidden, lora))
        return prompt_logprobs(logits, target_ids, num_top) if logits is not None else []

    def _local_logits(self, hidden: Tensor, lora: LoraPlan | None) -> Tensor:
        model = self._resident.model
        assert isinstance(model, DecoderModel | TransformersModel), "models that pool are not cut"
        return model.local_logits(hidden, lora)

    def _gathered(self, local: Tensor) -> Tensor | None:
        """[L, V] in fp32 on rank 0."""
        logits = self._group.gather(local, dim=1)
        return logits[:, : self._vocab_size].float() if logits is not None else None

    def _choose(self, logits: Tensor | None, rows: Sequence[int], ahead: Sequence[int], device: torch.device) -> ChosenTokens:
        if logits is None or self._sampling is None:
            return ChosenTokens.plain(self._group.broadcast(torch.empty(len(rows), dtype=torch.int64, device=device)))
        chosen = self._sampling.choose(logits, rows, ahead)
        self._group.broadcast(chosen.for_other_ranks)
        return chosen

    def _most_likely(self, logits: Tensor) -> Tensor:
        """Token ids [L] for this rank's columns of the logits, the same on every rank: the first maximum of the vocabulary, BROKEN where
        it is not finite."""
        first = self._group.rank * logits.shape[1]
        highest = logits.amax(dim=-1)
        # Both are exact in fp64, and travel as one tensor.
        own = torch.stack([highest.double(), (sample_tokens(logits, None) + first).double()], dim=1)
        every = self._group.all_gather(own[None], dim=0)  # [R, L, 2]
        values, token_ids = every[..., 0], every[..., 1].long()
        rank = values.argmax(dim=0, keepdim=True)  # the first of them: its tokens have the lowest ids. NaN counts as the highest.
        is_usable = values.gather(0, rank)[0].isfinite()
        return torch.where(is_usable, token_ids.gather(0, rank)[0], BROKEN)
