"""Sequences driven through a model step by step, with pages in scrambled order: a model runner reduced to its border."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from headway.kernels.kv_cache import INT8, int8_blocks
from headway.server.distributed.sequence_share import WHOLE, SequenceShare
from headway.server.layers.forward import ForwardBatch, LayerKV
from headway.server.models.base import Model

_LARGE = 1e4  # where nothing was written, so that reading a slot too many is seen


@dataclass
class Sequence:
    token_ids: list[int]
    num_computed: int = 0
    block_ids: list[int] = field(default_factory=list)


class Stepper:
    """Owns the pages of a few sequences. Blocks are handed out at random, so that no test passes by lying in order.

    ``share``: the model's ranks deal sequences out; a block is ``block_size`` tokens on each. ``wants_head``: see ForwardBatch."""

    def __init__(
        self,
        model: Model,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        share: SequenceShare = WHOLE,
        wants_head: bool = False,
    ) -> None:
        self.model = model
        self.page_size, self.block_size = block_size, block_size * share.size
        self.share = share
        self.wants_head = wants_head
        self.num_heads = 0  # steps whose logits came with the hidden states
        spec = model.kv_spec
        shape = (num_blocks, block_size, spec.num_kv_heads, spec.head_dim)
        if dtype == INT8:
            self.kv = [_int8_pages(shape) for _ in range(spec.num_layers)]
        else:
            large = min(_LARGE, torch.finfo(dtype).max)
            keys = [torch.full(shape, large, dtype=dtype) for _ in range(spec.num_layers)]
            self.kv = [LayerKV(k, k if spec.shares_values else torch.full(shape, large, dtype=dtype)) for k in keys]
        self._free = list(range(num_blocks))
        random.Random(seed).shuffle(self._free)

    @torch.inference_mode()
    def step(self, work: list[tuple[Sequence, int]]) -> list[Tensor]:
        """Computes the next ``n`` tokens of each sequence; returns each one's logits [n, V], in the order given."""
        order = sorted(range(len(work)), key=lambda i: work[i][1] > 1)  # decodes first, else as given
        batch, token_ids = self._batch([work[i] for i in order])
        batch.wants_head = self.wants_head
        hidden = self.model.forward(token_ids, self.kv, batch)
        logits = self.model.logits(hidden[batch.logits_indices]) if batch.head is None else batch.head.logits
        self.num_heads += batch.head is not None
        parts = dict(zip(order, logits.split(batch.query_lens), strict=True))
        for sequence, n in work:
            sequence.num_computed += n
        return [parts[i] for i in range(len(work))]

    def run(self, token_ids: list[int], chunks: list[int]) -> Tensor:
        """One sequence in steps of these many tokens (they add up to all): logits [T, V]."""
        sequence = Sequence(token_ids)
        assert sum(chunks) == len(token_ids)
        return torch.cat([self.step([(sequence, n)])[0] for n in chunks])

    def _batch(self, rows: list[tuple[Sequence, int]]) -> tuple[ForwardBatch, Tensor]:
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        for sequence, n in rows:
            end = sequence.num_computed + n
            while len(sequence.block_ids) * self.block_size < end:
                sequence.block_ids.append(self._free.pop())
            span = range(sequence.num_computed, end)
            tokens += sequence.token_ids[sequence.num_computed : end]
            positions += span
            blocks = np.array([sequence.block_ids[p // self.block_size] for p in span])
            slots += self.share.slots(blocks, np.array(span), self.page_size).tolist()
        query_lens = [n for _, n in rows]
        seq_lens = [sequence.num_computed + n for sequence, n in rows]
        starts = torch.tensor([0, *query_lens]).cumsum(0)
        width = max(len(sequence.block_ids) for sequence, _ in rows)
        tables = [sequence.block_ids + [0] * (width - len(sequence.block_ids)) for sequence, _ in rows]
        batch = ForwardBatch(
            positions=torch.tensor(positions),
            slot_mapping=torch.tensor(slots),
            query_start_loc=starts.int(),
            seq_lens=torch.tensor(seq_lens, dtype=torch.int32),
            block_tables=torch.tensor(tables, dtype=torch.int32),
            num_decodes=sum(n == 1 for n in query_lens),
            max_query_len=max(query_lens),
            max_seq_len=max(seq_lens),
            logits_indices=torch.arange(len(tokens)),
            query_lens=query_lens,
            seq_lens_host=seq_lens,
        )
        return batch, torch.tensor(tokens)


def _int8_pages(shape: tuple[int, int, int, int]) -> LayerKV:
    keys, values = (torch.zeros(int8_blocks(*shape), dtype=INT8) for _ in range(2))
    pages = LayerKV.of_int8_blocks(keys, values, *shape[1:])
    assert pages.scales is not None
    for numbers, scales in ((pages.k, pages.scales.k), (pages.v, pages.scales.v)):
        numbers.fill_(100)
        scales.fill_(_LARGE / 100)
    return pages
