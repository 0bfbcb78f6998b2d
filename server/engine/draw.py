"""Choosing tokens from logits: pure functions on tensors, batched, one result a row whatever the other rows are.

A random row is drawn by inverse transform: its weights ``exp(x - max)`` are rounded to 40-bit integers, summed up in a fixed
order and searched for ``u`` times their total. Integer sums are exact in any order, so neither the size of the batch nor the
way a device scans can move the border between two tokens; and a token that a filter removed has weight 0 and is never hit.

The filters, in the order in which they apply (each works on what the one before left, as if renormalised):
    temperature   x / temperature
    min-p         p(token) >= min_p * p(most likely token)
    top-k         the k most likely tokens
    top-p         the fewest most likely tokens whose probability reaches top_p (Holtzman et al., 2019)
"Most likely first" breaks ties by the lower token id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.server.types import SamplingParams

BROKEN = -1  # stands for the token of a row whose logits hold no finite maximum (NaN, +inf, or nothing allowed)

# A row's weights sum to at most 2^40 * vocabulary: below 2^63 up to 2^23 tokens. What is less likely than 2^-41 of the most
# likely token is never drawn; fp32 logits carry less than that.
_WEIGHT_SCALE = float(1 << 40)
# Rows that keep few tokens are cut to this many candidates before anything is sorted: one CPU core, vocabulary 49,152: topk(64)
# 0.09 ms a row, topk(1024) 0.40, sort 4.1 (2026-11-24). A row's width follows from its own options only.
_CANDIDATES = (64, 1024)
_NUCLEUS_CANDIDATES = (1024, 8192)  # tried one after the other before all of a row is sorted
_CHUNK_ELEMENTS = 1 << 24  # logits worked on at once: int64 copies of [256 rows, 150k tokens] would be 300 MB each


@dataclass(slots=True, frozen=True)
class RandomRow:
    """A row to draw for. ``index`` is its line in the logits, ``uniform`` in [0, 1) its randomness."""

    index: int
    sampling: SamplingParams
    uniform: float


@dataclass(slots=True, frozen=True)
class _Columns:
    """The options of G rows as [G, 1] columns on the device."""

    temperature: Tensor  # float32
    top_k: Tensor  # int64, at least 1; the vocabulary's size when off
    top_p: Tensor  # float64
    min_p: Tensor  # float32
    uniform: Tensor  # float64

    def lines(self, index: Tensor) -> _Columns:
        return _Columns(self.temperature[index], self.top_k[index], self.top_p[index], self.min_p[index], self.uniform[index])


def takes_argmax(sampling: SamplingParams) -> bool:
    """True if the row's token is its most likely one, so that no randomness is used: greedy, or top_k 1."""
    return sampling.is_greedy or sampling.top_k == 1


def choose_tokens(logits: Tensor, random_rows: Sequence[RandomRow]) -> Tensor:
    """Token ids [L] int64 on the device of ``logits`` [L, V] float32: drawn for ``random_rows``, the argmax for the others.

    A row without a finite maximum gets BROKEN; it does not touch the others. On CUDA nothing here waits for the device.
    """
    if len(random_rows) < logits.shape[0]:
        token_ids = logits.argmax(dim=-1)
        highest = logits.gather(1, token_ids[:, None])[:, 0]
    else:
        token_ids = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
        highest = logits.amax(dim=-1)
    for width, group in _by_width(random_rows, logits.shape[1]):
        for part in _chunks(group, max(1, _CHUNK_ELEMENTS // logits.shape[1])):
            index = _to_device([row.index for row in part], torch.int64, logits.device)
            drawn = _draw(logits[index], _columns(part, logits.shape[1], logits.device), width)
            token_ids.index_copy_(0, index, drawn)
    return torch.where(highest.isfinite(), token_ids, BROKEN)


def _by_width(rows: Sequence[RandomRow], vocab_size: int) -> Iterator[tuple[int, list[RandomRow]]]:
    """Groups rows by how many candidates they need in order: 0 is none (no filter looks at the order)."""
    groups: dict[int, list[RandomRow]] = {}
    for row in rows:
        groups.setdefault(_width(row.sampling, vocab_size), []).append(row)
    yield from sorted(groups.items(), key=lambda item: item[0])


def _width(sampling: SamplingParams, vocab_size: int) -> int:
    if 0 < sampling.top_k < vocab_size:
        return next((width for width in _CANDIDATES if sampling.top_k <= width < vocab_size), vocab_size)
    return vocab_size if sampling.top_p < 1.0 else 0


def _draw(logits: Tensor, columns: _Columns, width: int) -> Tensor:
    """Token ids [G] for ``logits`` [G, V]; ``width`` candidates in order (see _width)."""
    scaled = logits / columns.temperature
    relative = scaled.sub_(scaled.amax(dim=-1, keepdim=True)).exp_()
    relative.masked_fill_(relative < columns.min_p, 0.0)
    if width == 0:
        return _pick(_weights(relative), columns.uniform)
    if width < logits.shape[1]:
        return _draw_ordered(*_most_likely(relative, width), columns, None)
    # On a CPU looking at a result costs nothing: most nuclei fit a few candidates, and only the others need the sort.
    if logits.device.type == "cpu":
        return _draw_nucleus(relative, columns)
    return _draw_ordered(*_most_likely(relative, width), columns, None)


def _draw_nucleus(relative: Tensor, columns: _Columns) -> Tensor:
    """Like sorting all of ``relative``, but a row is ordered only as far as its kept tokens go."""
    vocab_size = relative.shape[1]
    total = _weights(relative).sum(dim=-1, keepdim=True)
    drawn = torch.empty_like(total[:, 0])
    left = torch.arange(len(relative))
    for width in _NUCLEUS_CANDIDATES:
        if width >= vocab_size or not len(left):
            break
        values, ids = _most_likely(relative[left], width)
        part, whole = columns.lines(left), total[left]
        reached = _weights(values).sum(dim=-1, keepdim=True) >= part.top_p * whole
        fits = (reached & (part.top_k >= vocab_size))[:, 0]
        drawn[left[fits]] = _draw_ordered(values[fits], ids[fits], part.lines(fits), whole[fits])
        left = left[~fits]
    if len(left):
        drawn[left] = _draw_ordered(*_most_likely(relative[left], vocab_size), columns.lines(left), None)
    return drawn


def _most_likely(relative: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The ``width`` largest of each row, largest first, ties by lower id: (values, token ids), both [G, width].

    At the far border of a narrow list, which of several equal tokens got in is the device's choice, the same every time.
    """
    if width == relative.shape[1]:
        values, ids = torch.sort(relative, dim=-1, descending=True, stable=True)
        return values, ids
    values, ids = torch.topk(relative, width, dim=-1, sorted=False)
    ids, order = torch.sort(ids, dim=-1)
    values, order = torch.sort(values.gather(1, order), dim=-1, descending=True, stable=True)
    return values, ids.gather(1, order)


def _draw_ordered(values: Tensor, ids: Tensor, columns: _Columns, total: Tensor | None) -> Tensor:
    """Applies top-k and top-p to candidates in order and draws. ``total`` is the weight of the row, candidates or not."""
    weights = _weights(values)
    ranks = torch.arange(values.shape[1], device=values.device)
    weights.masked_fill_(ranks >= columns.top_k, 0)
    before = weights.cumsum(dim=-1) - weights
    total = weights.sum(dim=-1, keepdim=True) if total is None else total
    # The most likely token always stays, even for a top_p of 0.
    weights.masked_fill_((before >= columns.top_p * total) & (ranks > 0), 0)
    return ids.gather(1, _pick(weights, columns.uniform)[:, None])[:, 0]


def _weights(relative: Tensor) -> Tensor:
    return (relative * _WEIGHT_SCALE).long()


def _pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Inverse transform: for each row the first place where the running sum exceeds ``uniform`` times the total. [G]"""
    sums = weights.cumsum(dim=-1)
    total = sums[:, -1:]
    target = torch.minimum((uniform * total).long(), total - 1)
    return torch.searchsorted(sums, target, right=True)[:, 0].clamp_(max=weights.shape[1] - 1)


def _columns(rows: Sequence[RandomRow], vocab_size: int, device: torch.device) -> _Columns:
    params = [row.sampling for row in rows]
    table = _to_device(
        [
            [p.temperature for p in params],
            [p.top_k if 0 < p.top_k < vocab_size else vocab_size for p in params],
            [p.top_p for p in params],
            [p.min_p for p in params],
            [row.uniform for row in rows],
        ],
        torch.float64,
        device,
    )[:, :, None]
    return _Columns(table[0].float(), table[1].long(), table[2], table[3].float(), table[4])


def _chunks(rows: Sequence[RandomRow], size: int) -> Iterator[Sequence[RandomRow]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _to_device(values: object, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One copy to the device that the host does not wait for."""
    tensor = torch.tensor(values, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
