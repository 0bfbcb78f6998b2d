"""Log-probabilities of the model's own distribution, for the rows that asked, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.server.types import TokenLogprobs

_CHUNK_ELEMENTS = 1 << 23  # logits worked on at once: 32 MB a temporary


@dataclass(slots=True)
class RawRows:
    """The untouched logits of the rows that asked for logprobs, kept while options change the batch's logits."""

    indices: list[int]  # lines of the batch
    num_top: list[int]  # -1: the whole vocabulary
    logits: Tensor  # [len(indices), V]

    def finish(self, token_ids: Sequence[int]) -> dict[int, TokenLogprobs]:
        """``token_ids`` is the whole batch's; returns {line: logprobs}. Lines whose token is negative are left out."""
        good = [place for place, index in enumerate(self.indices) if token_ids[index] >= 0]
        chosen = [token_ids[self.indices[place]] for place in good]
        scored = token_logprobs(self.logits[good], chosen, [self.num_top[place] for place in good])
        return {self.indices[place]: entry for place, entry in zip(good, scored, strict=True)}


def raw_rows(logits: Tensor, num_top: Sequence[int | None]) -> RawRows | None:
    """Copies the lines of ``logits`` [L, V] that want logprobs (``num_top`` not None); None if there is none."""
    indices = [index for index, count in enumerate(num_top) if count is not None]
    if not indices:
        return None
    return RawRows(indices, [count for count in num_top if count is not None], logits[indices])


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


def _top(logits: Tensor, width: int) -> tuple[Tensor, Tensor]:
    if width == logits.shape[1]:
        values, ids = torch.sort(logits, dim=-1, descending=True, stable=True)
    else:
        values, ids = torch.topk(logits, width, dim=-1)
    return values, ids
