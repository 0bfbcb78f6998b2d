"""The tensors of a step over whole texts: tokens side by side, pages counted from the first one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.server.engine.transfers import upload
from headway.server.layers.forward import ForwardBatch


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one text. ``start`` is the first one's position; those before it are computed. ``num_first_segment``: of the text."""

    token_ids: Sequence[int]
    start: int = 0
    num_first_segment: int | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


def forward_batch(pieces: Sequence[Piece], block_size: int, device: torch.device) -> tuple[Tensor, ForwardBatch]:
    """(token ids [T], the batch). Pieces of one token come first. Each has the pages behind those of the one before it."""

    def tensor(array: NDArray[Any]) -> Tensor:
        return upload(torch.from_numpy(array), device)

    lengths = np.array([len(piece.token_ids) for piece in pieces])
    num_blocks = np.array([-(-piece.end // block_size) for piece in pieces])
    first_blocks = num_blocks.cumsum() - num_blocks
    positions = np.concatenate([np.arange(piece.start, piece.end) for piece in pieces])
    tables = first_blocks[:, None] + np.arange(num_blocks.max())
    batch = ForwardBatch(
        positions=tensor(positions),
        slot_mapping=tensor(np.repeat(first_blocks * block_size, lengths) + positions),
        query_start_loc=tensor(np.concatenate([[0], lengths.cumsum()]).astype(np.int32)),
        seq_lens=tensor(np.array([piece.end for piece in pieces], dtype=np.int32)),
        block_tables=tensor(np.where(tables < (first_blocks + num_blocks)[:, None], tables, 0).astype(np.int32)),
        num_decodes=int((lengths == 1).sum()),
        max_query_len=int(lengths.max()),
        max_seq_len=max(piece.end for piece in pieces),
        logits_indices=tensor(np.empty(0, dtype=np.int64)),
        query_lens=lengths.tolist(),
        seq_lens_host=[piece.end for piece in pieces],
    )
    if any(piece.num_first_segment is not None for piece in pieces):
        firsts = np.array([piece.end if piece.num_first_segment is None else piece.num_first_segment for piece in pieces])
        batch.token_types = tensor((positions >= np.repeat(firsts, lengths)).astype(np.int64))
    return tensor(np.concatenate([np.asarray(piece.token_ids, dtype=np.int64) for piece in pieces])), batch
