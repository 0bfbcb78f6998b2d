"""Log-probabilities of the model's own distribution, for the rows that asked, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor

from headway.server.engine.transfers import Arrival, upload
from headway.server.types import SamplingParams, TokenLogprobs

_CHUNK_ELEMENTS = 1 << 23  # logits worked on at once: 32 MB a temporary


class Scores:
    """How likely one token of each line of logits was, on its way to the host."""

    def __init__(self, logits: Tensor, token_ids: Tensor, num_top: Sequence[int]) -> None:
        """Scores ``token_ids`` [n] int64 under ``logits`` [n, V], both on the device, n at once or in parts as memory allows. ``num_top``
        of a line: how many of the most likely tokens are told beside it, -1: the whole vocabulary."""
        vocab_size = logits.shape[1]
        self._widths = [vocab_size if count < 0 else min(count, vocab_size) for count in num_top]
        size = max(1, _CHUNK_ELEMENTS // vocab_size)
        parts = [slice(start, start + size) for start in range(0, len(self._widths), size)]
        self._arrivals = [Arrival(_score(logits[part].float(), token_ids[part], max(self._widths[part]))) for part in parts]

    def finish(self) -> list[TokenLogprobs]:
        """Waits for them."""
        entries: list[TokenLogprobs] = []
        for arrival in self._arrivals:
            columns: list[Any] = [tensor.tolist() for tensor in arrival.wait()]
            widths = self._widths[len(entries) : len(entries) + len(columns[0])]
            entries += [
                TokenLogprobs(token, value, rank, list(zip(top_ids[:width], top_values[:width], strict=True)))
                for width, token, value, rank, top_values, top_ids in zip(widths, *columns, strict=True)
            ]
        return entries


@dataclass(slots=True, frozen=True)
class RawRows:
    """The untouched logits of the rows that asked for logprobs, kept while options change the batch's logits."""

    indices: list[int]  # lines of the batch
    num_top: list[int]  # -1: the whole vocabulary
    logits: Tensor  # [len(indices), V]
    token_ids: list[tuple[int, ...]]  # whose logprobs are wanted in the place of the most likely ones; empty: these

    def score(self, chosen: Tensor) -> RawScores:
        """``chosen`` is the whole batch's, [L] int64 on the device; a negative one is scored as any token, for nobody."""
        lines = upload(torch.tensor(self.indices), chosen.device)
        scores = Scores(self.logits, chosen[lines].clamp_(min=0), self.num_top)
        named = {place: NamedScores(self.logits[place], ids) for place, ids in enumerate(self.token_ids) if ids}
        return RawScores(self.indices, scores, named)


@dataclass(slots=True, frozen=True)
class RawScores:
    """Logprobs of a step's rows on their way to the host."""

    indices: list[int]  # lines of the batch
    scores: Scores
    named: dict[int, NamedScores]  # by place among the indices

    def finish(self) -> dict[int, TokenLogprobs]:
        """{line: logprobs}; those of a line that got no token mean nothing."""
        entries = self.scores.finish()
        for place, named in self.named.items():
            entries[place] = msgspec.structs.replace(entries[place], top=named.finish())
        return dict(zip(self.indices, entries, strict=True))


class NamedScores:
    """Logprobs of tokens that a request named, on their way to the host."""

    def __init__(self, logits: Tensor, token_ids: Sequence[int]) -> None:
        """Under ``logits`` [V]; ids that the model does not have are left out."""
        self._known = [token_id for token_id in token_ids if 0 <= token_id < logits.shape[0]]
        row = logits.float()
        index = upload(torch.tensor(self._known, dtype=torch.int64), row.device)
        self._arrival = Arrival([row[index] - row.logsumexp(dim=-1)])

    def finish(self) -> list[tuple[int, float]]:
        """(token id, logprob), most likely first."""
        (values,) = self._arrival.wait()
        return sorted(zip(self._known, values.tolist(), strict=True), key=lambda pair: -pair[1])


def raw_rows(logits: Tensor, samplings: Sequence[SamplingParams]) -> RawRows | None:
    """Copies the lines of ``logits`` [L, V] that want logprobs; None if there is none. ``samplings`` are parallel to the lines."""
    indices = [index for index, sampling in enumerate(samplings) if sampling.logprobs is not None]
    if not indices:
        return None
    wanted = [samplings[index] for index in indices]
    num_top = [0 if sampling.logprob_token_ids else sampling.logprobs or 0 for sampling in wanted]
    lines = upload(torch.tensor(indices), logits.device)
    return RawRows(indices, num_top, logits[lines], [sampling.logprob_token_ids for sampling in wanted])


def prompt_logprobs(logits: Tensor, target_ids: Sequence[int], num_top: int) -> list[TokenLogprobs]:
    """How likely each prompt token was: ``logits`` [n, V] predicts ``target_ids`` [n]; ``num_top`` -1 is the whole vocabulary. Waits for
    the device."""
    targets = upload(torch.tensor(target_ids, dtype=torch.int64), logits.device)
    return Scores(logits, targets, [num_top] * len(target_ids)).finish()


def _score(logits: Tensor, token_ids: Tensor, width: int) -> tuple[Tensor, ...]:
    """(token ids, logprobs, ranks [n]; logprobs and ids of the most likely [n, width])."""
    chosen = logits.gather(1, token_ids[:, None])
    norm = logits.logsumexp(dim=-1, keepdim=True)
    ranks = (logits > chosen).sum(dim=-1) + 1
    top_values, top_ids = _top(logits, width)
    return token_ids, (chosen - norm)[:, 0], ranks, top_values - norm, top_ids


def _top(logits: Tensor, width: int) -> tuple[Tensor, Tensor]:
    if width == logits.shape[1]:
        values, ids = torch.sort(logits, dim=-1, descending=True, stable=True)
    else:
        values, ids = torch.topk(logits, width, dim=-1)
    return values, ids
