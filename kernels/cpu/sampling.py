"""Choosing tokens on the CPU, where looking at an option or a result costs nothing: a row is ordered only as far as it has to be.

``exp`` is torch's, which may differ from the reference's in the last bit. At the far border of a narrow list, which of several
equal tokens got in is torch's choice, the same every time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from headway.kernels.cpu.native.library import function
from headway.kernels.reference.sampling import draw_ordered, pick, weights_of
from headway.kernels.sampling import BROKEN, Draws

# Rows that keep few tokens are cut to this many candidates before anything is sorted: one CPU core, vocabulary 49,152: topk(64)
# 0.09 ms a row, topk(1024) 0.40, sort 4.1 (2026-11-24). A row's width follows from its own options only.
_CANDIDATES = (64, 1024)
_NUCLEUS_CANDIDATES = (1024, 8192)  # tried one after the other before all of a row is sorted
_CHUNK_ELEMENTS = 1 << 24  # logits worked on at once: int64 copies of [256 rows, 150k tokens] would be 300 MB each


def sample_tokens(logits: Tensor, draws: Draws | None) -> Tensor:
    """See headway.kernels.sampling.sample_tokens."""
    token_ids = _first_maximum(logits)
    if draws is not None:
        is_broken = token_ids == BROKEN
        for width, group in _by_width(draws, logits.shape[1]):
            for part in torch.split(group, max(1, _CHUNK_ELEMENTS // logits.shape[1])):
                chosen = _rows(draws, part)
                token_ids[chosen.lines] = _draw(logits[chosen.lines], chosen, width)
        token_ids[is_broken] = BROKEN
    return token_ids


def _first_maximum(logits: Tensor) -> Tensor:
    """Token ids [L], BROKEN where there is none. Without a compiled kernel by NumPy: its argmax takes 5 us a row, torch's 43 (vocabulary
    49,152, 2026-11-27)."""
    if (kernel := function("first_maximum", torch.float32)) is not None:
        found = torch.empty(logits.shape[0], dtype=torch.int64)
        kernel(found.data_ptr(), logits.data_ptr(), *logits.shape, logits.stride(0))
        return found
    numbers = logits.numpy()
    token_ids = numbers.argmax(axis=-1)  # a NaN before all others, as torch does
    token_ids[~np.isfinite(numbers[np.arange(len(numbers)), token_ids])] = BROKEN
    return torch.from_numpy(token_ids)


def _by_width(draws: Draws, vocab_size: int) -> Iterator[tuple[int, Tensor]]:
    """Groups rows by how many candidates they need in order: 0 is none (no filter looks at the order)."""
    groups: dict[int, list[int]] = {}
    for row, (top_k, top_p) in enumerate(zip(draws.top_k.tolist(), draws.top_p.tolist(), strict=True)):
        groups.setdefault(_width(top_k, top_p, vocab_size), []).append(row)
    for width, rows in sorted(groups.items()):
        yield width, torch.tensor(rows)


def _width(top_k: int, top_p: float, vocab_size: int) -> int:
    if top_k < vocab_size:
        return next((width for width in _CANDIDATES if top_k <= width < vocab_size), vocab_size)
    return vocab_size if top_p < 1.0 else 0


def _rows(draws: Draws, rows: Tensor) -> Draws:
    return Draws(draws.lines[rows], draws.top_k[rows], draws.temperature[rows], draws.top_p[rows], draws.min_p[rows], draws.uniform[rows])


def _draw(logits: Tensor, draws: Draws, width: int) -> Tensor:
    """Token ids [G] for ``logits`` [G, V], which is overwritten; ``width`` candidates in order (see _width)."""
    relative = logits.sub_(logits.amax(dim=-1, keepdim=True)).div_(draws.temperature.float()[:, None]).exp_()
    relative.masked_fill_(relative < draws.min_p.float()[:, None], 0.0)
    if width == 0:
        return pick(weights_of(relative), draws.uniform)
    if width < logits.shape[1]:
        return draw_ordered(*_most_likely(relative, width), draws.top_k, draws.top_p, draws.uniform)
    # Most nuclei fit a few candidates, and only the others need the sort.
    return _draw_nucleus(relative, draws)


def _draw_nucleus(relative: Tensor, draws: Draws) -> Tensor:
    """Like sorting all of ``relative``, but a row is ordered only as far as its kept tokens go."""
    vocab_size = relative.shape[1]
    total = weights_of(relative).sum(dim=-1, keepdim=True)
    drawn = torch.empty_like(total[:, 0])
    left = torch.arange(len(relative))
    for width in _NUCLEUS_CANDIDATES:
        if width >= vocab_size or not len(left):
            break
        values, ids = _most_likely(relative[left], width)
        part, whole = _rows(draws, left), total[left]
        reached = weights_of(values).sum(dim=-1, keepdim=True) >= part.top_p[:, None] * whole
        fits = (reached & (part.top_k[:, None] >= vocab_size))[:, 0]
        drawn[left[fits]] = draw_ordered(values[fits], ids[fits], part.top_k[fits], part.top_p[fits], part.uniform[fits], total=whole[fits])
        left = left[~fits]
    if len(left):
        part = _rows(draws, left)
        drawn[left] = draw_ordered(*_most_likely(relative[left], vocab_size), part.top_k, part.top_p, part.uniform)
    return drawn


def _most_likely(relative: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The ``width`` largest of each row, largest first, ties by lower id: (values, token ids), both [G, width]."""
    if width == relative.shape[1]:
        values, ids = torch.sort(relative, dim=-1, descending=True, stable=True)
        return values, ids
    values, ids = torch.topk(relative, width, dim=-1, sorted=False)
    ids, order = torch.sort(ids, dim=-1)
    values, order = torch.sort(values.gather(1, order), dim=-1, descending=True, stable=True)
    return values, ids.gather(1, order)
