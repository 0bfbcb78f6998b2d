"""The two tables over the vocabulary, cut by rows over the ranks: token embedding and output projection; and small whole tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from headway.kernels.plans import LoraPlan
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.layers.embedding_lora import EmbeddingAdapters
from headway.server.layers.lora import LinearAdapters
from headway.server.layers.quant.method import LinearMethod
from headway.server.layers.weight import Layer, Part, Weight, whole

_ROWS_COMPARED = 4096  # of a table at a time: a copy of all of it may not fit


class VocabParallelEmbedding(Layer):
    """token_ids [T] int64 -> [T, H], or this rank's rows of it; a rank looks up the tokens of its part and the ranks add up. ``adapters``
    is there where adapters are enabled."""

    def __init__(self, vocab_size: int, hidden_size: int, *, dtype: torch.dtype, device: torch.device, group: TensorParallelGroup) -> None:
        shape, parts = _vocab_shard(vocab_size, hidden_size, group)
        self.weight = Weight(shape, parts, self._keep, dtype=dtype, device=device)
        self._group = group
        self._first_token = group.rank * shape[0]
        self._num_tokens = shape[0]
        self._table: Tensor
        self._tied: ParallelLMHead | None = None
        self.adapters: EmbeddingAdapters | None = None

    def __call__(self, token_ids: Tensor, lora: LoraPlan | None = None) -> Tensor:
        """``lora``: the step's adapters, None for none."""
        if self._group.size == 1:
            return self._adapted(self._table.index_select(0, token_ids), token_ids, lora)
        local = token_ids - self._first_token
        is_elsewhere = (local < 0) | (local >= self._num_tokens)
        found = functional.embedding(local.masked_fill(is_elsewhere, 0), self._table)
        return self._group.sum_rows(self._adapted(found.masked_fill_(is_elsewhere.unsqueeze(1), 0), local, lora))

    @property
    def whole_table(self) -> Tensor | None:
        """[V, H], where all of it is on this rank."""
        return self._table if self._group.size == 1 else None

    def make_adapters(self, num_slots: int, max_rank: int, *, dtype: torch.dtype, device: torch.device) -> EmbeddingAdapters:
        """Room for adapters, to be given to ``adapters``. They have the table's dtype, whatever the linears' have: no product reads all of
        one, so that 8 bits would save no time."""
        return EmbeddingAdapters(self.weight, num_slots, max_rank, device=device)

    def holds(self, table: Tensor) -> bool:
        """Whether ``table`` [V, H], on any device, is the one that this is, of the only rank."""
        if table.shape != self._table.shape:
            return False
        pieces = (slice(start, start + _ROWS_COMPARED) for start in range(0, len(table), _ROWS_COMPARED))
        return all(torch.equal(self._table[piece], table[piece].to(self._table)) for piece in pieces)

    def tie(self, head: ParallelLMHead) -> None:
        """The head gets this table when it is loaded: the same storage, unless its method packs a copy."""
        self._tied = head

    def _adapted(self, found: Tensor, local_ids: Tensor, lora: LoraPlan | None) -> Tensor:
        if lora is not None:
            assert self.adapters is not None, "a step has adapters only where layers have room for them"
            self.adapters.add(found, local_ids, lora)
        return found

    def _keep(self, table: Tensor) -> int:
        self._table = table
        if self._tied is None:
            return table.nbytes
        packed_bytes = self._tied.keep(table)
        return table.nbytes if self._tied.shares(table) else table.nbytes + packed_bytes


class ParallelLMHead(Layer):
    """hidden [L, H] -> logits [L, V] in fp32, whole on every rank. Without a weight of its own where it is tied. Logits are multiplied by
    ``scale``, then bent to within ``softcap``, if that is not 0: both in fp32. ``adapters`` is there where adapters are enabled; a tied
    head's are its own, and change nothing about the embedding."""

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        *,
        tied_to: VocabParallelEmbedding | None,
        method: LinearMethod,
        group: TensorParallelGroup,
        scale: float = 1.0,
        softcap: float = 0.0,
    ) -> None:
        self.weight: Weight | None = None
        self._shape, self._parts = _vocab_shard(vocab_size, hidden_size, group)
        if tied_to is None:
            self.weight = method.create(self._shape, self._parts, self.keep)
        else:
            tied_to.tie(self)
        self._vocab_size = vocab_size
        self._scale = scale
        self._softcap = softcap
        self._method = method
        self._group = group
        self._packed: Any = None
        self.adapters: LinearAdapters | None = None

    def __call__(self, hidden: Tensor, lora: LoraPlan | None = None) -> Tensor:
        """``lora``: the adapters of these hidden states, None for none."""
        logits = self._product(hidden, lora)
        if self._group.size > 1:
            logits = self._group.all_gather(logits, dim=1)[:, : self._vocab_size]
        return self._shaped(logits.float())

    def local(self, hidden: Tensor, lora: LoraPlan | None = None) -> Tensor:
        """This rank's columns [L, V / ranks rounded up], in the dtype that they are computed in, or fp32; -inf behind the vocabulary."""
        logits = self._shaped(self._product(hidden, lora))
        logits[:, max(self._vocab_size - self._group.rank * logits.shape[1], 0) :] = -torch.inf
        return logits

    @property
    def plain_product(self) -> Any:
        """The loaded weight as the method packed it, where logits are its product and nothing else; else None."""
        return self._packed if self._group.size == 1 and self._scale == 1.0 and not self._softcap else None

    def make_adapters(self, num_slots: int, max_rank: int, *, dtype: torch.dtype, device: torch.device) -> LinearAdapters:
        """See Linear.make_adapters."""
        return LinearAdapters(self._shape, self._parts, num_slots, max_rank, dtype=dtype, device=device)

    def _product(self, hidden: Tensor, lora: LoraPlan | None) -> Tensor:
        logits = self._method.apply(hidden, self._packed, None)
        if lora is not None:
            assert self.adapters is not None, "hidden states have adapters only where the head has room for them"
            self.adapters.add(logits, hidden, lora)
        return logits

    def _shaped(self, logits: Tensor) -> Tensor:
        if self._scale != 1.0:
            logits = logits.float() * self._scale
        return torch.tanh(logits.float() / self._softcap) * self._softcap if self._softcap else logits

    def keep(self, table: Any) -> int:
        """Takes this rank's rows [V / ranks, H]; returns the bytes kept."""
        self._packed, num_bytes = self._method.pack(table)
        return num_bytes

    def shares(self, table: Tensor) -> bool:
        """Whether what was packed is the table itself, not a copy in another layout."""
        return getattr(self._packed, "data", None) is table


class Table(Layer):
    """indices [T] int64 -> rows [T, H]; every rank holds all of it: positions, segments."""

    def __init__(self, num_rows: int, hidden_size: int, *, dtype: torch.dtype, device: torch.device) -> None:
        shape = (num_rows, hidden_size)
        self.weight = Weight(shape, whole(shape), self._keep, dtype=dtype, device=device)
        self._table: Tensor

    def __call__(self, indices: Tensor) -> Tensor:
        return functional.embedding(indices, self._table)

    def first(self) -> Tensor:
        """Row 0 [H]."""
        return self._table[0]

    def _keep(self, table: Tensor) -> int:
        self._table = table
        return table.nbytes


def _vocab_shard(vocab_size: int, hidden_size: int, group: TensorParallelGroup) -> tuple[tuple[int, int], dict[str, Part]]:
    """Equal shards; the last ones are padded with zero rows where the ranks do not divide the vocabulary."""
    num_rows = -(-vocab_size // group.size)
    start = min(group.rank * num_rows, vocab_size)
    length = min(num_rows, vocab_size - start)
    return (num_rows, hidden_size), {"": Part((vocab_size, hidden_size), 0, start, length)}
