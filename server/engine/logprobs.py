"""Log-probabilities of the model's own distribution, for the rows that asked, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from headway.server.types import SamplingParams, TokenLogprobs

_CHUNK_ELEMENTS = 1 << 23  # logits worked on at once: 32 MB a temporary


@dataclass(slots=True)
class RawRows:
    """The untouched logits of the rows that asked for logprobs, kept while options change the batch's logits."""

    indices: list[int]  # lines of the batch
    num_top: list[int]  # -1: the whole vocabulary
    logits: Tensor  # [len(indices), V]
    token_ids: list[tuple[int, ...]]  # whose logprobs are wanted in the place of the most likely ones; empty: these

    def finish(self, token_ids: Sequence[int]) -> dict[int, TokenLogprobs]:
        """``token_ids`` is the whole batch's; returns {line: logprobs}. Lines whose token is negative are left out."""
        good = [place for place, index in enumerate(self.indices) if token_ids[index] >= 0]
        chosen = [token_ids[self.indices[place]] for place in good]
        scored = token_logprobs(self.logits[good], chosen, [self.num_top[place] for place in good])
        if any(self.token_ids):
            wanted = [self.token_ids[place] for place in good]
            scored = [
                entry if not ids else msgspec.structs.replace(entry, top=_of_tokens(row, ids))
                for entry, ids, row in zip(scored, wanted, self.logits[good], strict=True)
            ]
        return {self.indices[place]: entry for place, entry in zip(good, scored, strict=True)}


def raw_rows(logits: Tensor, samplings: Sequence[SamplingParams]) -> RawRows | None:
    """Copies the lines of ``logits`` [L, V] that want logprobs; None if there is none. ``samplings`` are parallel to the lines."""
    indices = [index for index, sampling in enumerate(samplings) if sampling.logprobs is not None]
    if not indices:
        return None
    wanted = [samplings[index] for index in indices]
    num_top = [0 if sampling.logprob_token_ids else sampling.logprobs or 0 for sampling in wanted]
    return RawRows(indices, num_top, logits[indices], [sampling.logprob_token_ids for sampling in wanted])


def prompt_logprobs(logits: Tensor, target_ids: Sequence[int], num_top: int) -> list[TokenLogprobs]:
    """How likely each prompt token was: ``logits`` [n, V] predicts ``target_ids`` [n]; ``num_top`` -1 is the whole vocabulary."""
    return token_logprobs(logits, target_ids, [num_top] * len(target_ids))


def token_logprobs(logits: Tensor, token_ids: Sequence[int], num_top: Sequence[int]) -> list[TokenLogprobs]:
    """Scores ``token_ids`` [n] under ``logits`` [n, V], n at once or in parts as memory allows. Waits for the device."""
    size = max(1, _CHUNK_ELEMENTS // logits.shape[1])
    scored: list[TokenLogprobs] = []
    for start in range(0, len(token_ids), size):
        part = slice(start, start + size)
        scored += _score(logits[part].float(), token_ids[part], num_top[part])
    return scored


def _score(logits: Tensor, token_ids: Sequence[int], num_top: Sequence[int]) -> list[TokenLogprobs]:
    vocab_size = logits.shape[1]
    widths = [vocab_size if count < 0 else min(count, vocab_size) for count in num_top]
    ids = torch.tensor(token_ids, dtype=torch.int64, device=logits.device)[:, None]
    chosen = logits.gather(1, ids)
    norm = logits.logsumexp(dim=-1, keepdim=True)
    ranks = (logits > chosen).sum(dim=-1) + 1
    top_values, top_ids = _top(logits, max(widths))
    values, rank_list = (chosen - norm)[:, 0].tolist(), ranks.tolist()
    top_value_lists, top_id_lists = (top_values - norm).tolist(), top_ids.tolist()
    return [
        TokenLogprobs(token, value, rank, list(zip(row_ids[:width], row_values[:width], strict=True)))
        for token, value, rank, width, row_ids, row_values in zip(
            token_ids, values, rank_list, widths, top_id_lists, top_value_lists, strict=True
        )
    ]


def _of_tokens(logits: Tensor, token_ids: Sequence[int]) -> list[tuple[int, float]]:
    """(token id, logprob) of these tokens under ``logits`` [V], most likely first; ids that the model does not have are left out."""
    known = [token_id for token_id in token_ids if 0 <= token_id < logits.shape[0]]
    row = logits.float()
    values = (row[torch.tensor(known, dtype=torch.int64, device=row.device)] - row.logsumexp(dim=-1)).tolist()
    return sorted(zip(known, values, strict=True), key=lambda pair: -pair[1])


def _top(logits: Tensor, width: int) -> tuple[Tensor, Tensor]:
    if width == logits.shape[1]:
        values, ids = torch.sort(logits, dim=-1, descending=True, stable=True)
    else:
        values, ids = torch.topk(logits, width, dim=-1)
    return values, ids
