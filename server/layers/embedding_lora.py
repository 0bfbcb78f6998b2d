"""The adapters of the token embedding: low-rank updates in slots of a fixed size, cut over the ranks by tokens as the table is."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from headway.kernels.embedding_lora import add_embedding_lora, embedding_lora_slots
from headway.kernels.plans import LoraPlan
from headway.server.layers.lora import UpdateShare, host_copy
from headway.server.layers.weight import Weight


class EmbeddingAdapters:
    """Room for ``num_slots`` adapters of up to ``max_rank`` on the table ``weight``, in its dtype. Memory is taken at once and kept.

    See LinearAdapters, whose methods these are."""

    def __init__(self, weight: Weight, num_slots: int, max_rank: int, *, device: torch.device) -> None:
        (self._part,) = weight.parts.values()
        self._a, self._b = embedding_lora_slots(num_slots, max_rank, weight.shape, dtype=weight.dtype, device=device)  # type: ignore[arg-type]
        self._ranks = [0] * num_slots  # 0: nothing there

    @property
    def num_bytes(self) -> int:
        return self._a.nbytes + self._b.nbytes

    def tensors(self) -> Iterator[Tensor]:
        yield from (self._a, self._b)

    def shape(self, part: str) -> tuple[int, ...]:
        """[V, H] of the whole table."""
        return self._part.shape

    def share(self, part: str, a: Tensor, b: Tensor) -> UpdateShare:
        """A copy of this rank's share of the update ``b @ a`` of the table, a [r, H] and b [V, r]."""
        rows = b.narrow(0, self._part.start, self._part.length)
        return UpdateShare(len(a), (self._copy(rows), self._copy(a.t())))

    def put(self, slot: int, part: str, share: UpdateShare) -> None:
        rows, columns = share.tensors
        self._a[slot, : len(rows), : share.rank].copy_(rows, non_blocking=True)
        self._b[slot, :, : share.rank].copy_(columns, non_blocking=True)
        self._ranks[slot] = share.rank

    def clear(self, slot: int) -> None:
        self._ranks[slot] = 0

    def add(self, out: Tensor, token_ids: Tensor, plan: LoraPlan) -> None:
        """Adds each token's update to its row of ``out`` [T, H], in place. ``token_ids`` [T] int64 count from this rank's first; of those
        that another rank has, nothing is added."""
        add_embedding_lora(out, token_ids, self._a, self._b, self._ranks, plan)

    def _copy(self, tensor: Tensor) -> Tensor:
        return host_copy(tensor, self._a.dtype, self._a.device)
