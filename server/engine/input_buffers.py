"""Where a device finds the inputs of a step, at addresses that depend on the step's shape alone: a GPU's by one copy from pinned memory.

A step is packed into one buffer of 32-bit words:

    token_ids [T] | positions [T] | slot_mapping [T] | query_start_loc [B + 1] | seq_lens [B] | logits_indices [L] | block_tables [B, M]

What a CUDA graph reads comes first, at places that follow from T and B; block tables, of which M changes from step to step, are laid out
anew on the device, with rows as long as the longest context. On a CPU nothing is copied: they are written there at once, and the last part
of the buffer is not used.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.kernels.plans import LoraPlan
from headway.server.engine.rows import LongArray, StepInputs
from headway.server.layers.forward import ForwardBatch

_ALIGNMENT = 4  # words: Triton compiles a kernel anew for a pointer that is not a multiple of 16 bytes
_NUM_KEPT = 256  # shapes whose views are kept: making them takes longer than filling them


class _Shape(NamedTuple):
    num_tokens: int  # T
    num_rows: int  # B
    num_wanted: int  # L
    width: int  # M


class _Parts(NamedTuple):
    """Of a packed step, as views of its buffer."""

    token_ids: Tensor
    positions: Tensor
    slot_mapping: Tensor
    query_start_loc: Tensor
    seq_lens: Tensor
    logits_indices: Tensor
    block_tables: Tensor
    whole: Tensor  # all of them, and what lies between


class InputBuffers:
    """Owns the device's input tensors, which the next ``load`` overwrites: behind the work on them in a stream, at once on a CPU.

    Two steps may be on their way to the device at a time.
    """

    def __init__(self, max_tokens: int, max_rows: int, max_blocks: int, device: torch.device) -> None:
        num_words = _places(_Shape(max_tokens, max_rows, max_rows, max_blocks))[-1].stop
        packed = torch.zeros(num_words, dtype=torch.int32, device=device)
        tables = torch.zeros((max_rows, max_blocks), dtype=torch.int32, device=device)
        self._has_copies = device.type == "cuda"
        stages = [_Stage(packed, tables=tables)]  # what a CPU computes with is filled in place
        if self._has_copies:
            pinned = [torch.zeros(num_words, dtype=torch.int32, pin_memory=True) for _ in range(2)]
            stages = [_Stage(memory, torch.cuda.Event()) for memory in pinned]  # type: ignore[no-untyped-call]
        self._stages = cycle(stages)
        self._views = lru_cache(_NUM_KEPT)(lambda it: (_parts_of(packed, it), tables[: it.num_rows], tables[: it.num_rows, : it.width]))

    def load(self, inputs: StepInputs, wanted: LongArray, num_rows: int, lora: LoraPlan | None = None) -> tuple[Tensor, ForwardBatch]:
        """(token ids [T] int64, the batch). ``wanted`` [L]: tokens whose logits are wanted.

        A decode step may be padded to ``num_rows``. The rows added have one token, which is written to no slot and wanted by nobody.
        """
        num_added = num_rows - len(inputs.query_lens)
        assert num_added == 0 or inputs.num_decodes == len(inputs.query_lens), "only decode steps are padded"
        shape = _Shape(len(inputs.token_ids) + num_added, num_rows, len(wanted), inputs.block_tables.shape[1])
        parts, tables, used = self._views(shape)
        next(self._stages).send(inputs, wanted, shape, parts.whole)
        if self._has_copies:
            used.copy_(parts.block_tables)
        query_lens, seq_lens_host = inputs.query_lens, inputs.seq_lens
        if num_added:
            query_lens, seq_lens_host = query_lens + [1] * num_added, seq_lens_host + [1] * num_added
        return parts.token_ids, ForwardBatch(
            positions=parts.positions,
            slot_mapping=parts.slot_mapping,
            query_start_loc=parts.query_start_loc,
            seq_lens=parts.seq_lens,
            # Whole rows on a GPU, so that each step of B rows has the same ones; a CPU's implementations may look at all columns.
            block_tables=tables if self._has_copies else used,
            num_decodes=inputs.num_decodes + num_added,
            max_query_len=max(query_lens),
            max_seq_len=max(seq_lens_host),
            logits_indices=parts.logits_indices,
            query_lens=query_lens,
            seq_lens_host=seq_lens_host,
            lora=lora,
        )


class _Stage:
    """A step in the host's memory: until it is copied, or where it is computed with."""

    def __init__(self, memory: Tensor, copied: torch.cuda.Event | None = None, tables: Tensor | None = None) -> None:
        """``copied`` is recorded behind each copy; None: there is none to make. ``tables``: where block tables go, in the place of their
        part of ``memory``."""
        self._memory = memory
        self._tables = tables
        self._parts = lru_cache(_NUM_KEPT)(self._views)
        self._copied = copied

    def _views(self, shape: _Shape) -> list[NDArray[Any]]:
        parts = _parts_of(self._memory, shape)[:-1]
        if self._tables is not None:
            parts = (*parts[:-1], self._tables[: shape.num_rows, : shape.width])
        return [part.numpy() for part in parts]

    def send(self, inputs: StepInputs, wanted: LongArray, shape: _Shape, packed: Tensor) -> None:
        """Fills the device's ``packed`` step, once the last one from here has arrived."""
        if self._copied is not None:
            self._copied.synchronize()  # returns at once before the first ``record``
        _pack(inputs, wanted, *self._parts(shape))
        if self._copied is not None:
            packed.copy_(self._memory[: len(packed)], non_blocking=True)
            self._copied.record()


def _places(shape: _Shape) -> list[slice]:
    """Of each part, in words."""
    sizes = (*[2 * shape.num_tokens] * 3, shape.num_rows + 1, shape.num_rows, 2 * shape.num_wanted, shape.num_rows * shape.width)
    places, start = [], 0
    for size in sizes:
        places.append(slice(start, start + size))
        start += -(-size // _ALIGNMENT) * _ALIGNMENT
    return places


def _parts_of(memory: Tensor, shape: _Shape) -> _Parts:
    places = _places(shape)
    token_ids, positions, slot_mapping, query_start_loc, seq_lens, logits_indices, tables = (memory[place] for place in places)
    return _Parts(
        token_ids.view(torch.int64),
        positions.view(torch.int64),
        slot_mapping.view(torch.int64),
        query_start_loc,
        seq_lens,
        logits_indices.view(torch.int64),
        tables.view(shape.num_rows, shape.width),
        memory[: places[-1].stop],
    )


def _pack(
    inputs: StepInputs,
    wanted: LongArray,
    token_ids: NDArray[Any],
    positions: NDArray[Any],
    slot_mapping: NDArray[Any],
    query_start_loc: NDArray[Any],
    seq_lens: NDArray[Any],
    logits_indices: NDArray[Any],
    block_tables: NDArray[Any],
) -> None:
    num_tokens, num_rows = len(inputs.token_ids), len(inputs.query_lens)
    token_ids[:num_tokens] = inputs.token_ids
    positions[:num_tokens] = inputs.positions
    slot_mapping[:num_tokens] = inputs.slot_mapping
    query_start_loc[: num_rows + 1] = inputs.query_start_loc
    seq_lens[:num_rows] = inputs.seq_lens
    logits_indices[:] = wanted
    block_tables[:num_rows] = inputs.block_tables
    if num_rows < len(seq_lens):
        token_ids[num_tokens:] = 0
        positions[num_tokens:] = 0
        slot_mapping[num_tokens:] = -1
        query_start_loc[num_rows + 1 :] = np.arange(num_tokens + 1, len(token_ids) + 1)
        seq_lens[num_rows:] = 1
        block_tables[num_rows:] = 0
