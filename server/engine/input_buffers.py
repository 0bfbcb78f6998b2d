"""Where a device finds the inputs of a step: one copy from pinned memory, to addresses that depend on the step's shape alone.

A step is packed into one buffer of 32-bit words:

    token_ids [T] | positions [T] | slot_mapping [T] | query_start_loc [B + 1] | seq_lens [B] | logits_indices [L] | block_tables [B, M]

What a CUDA graph reads comes first, at places that follow from T and B; block tables, of which M changes from step to step, are laid out
anew on the device, with rows as long as the longest context.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.kernels.plans import LoraPlan
from headway.server.engine.rows import LongArray, StepInputs
from headway.server.layers.forward import ForwardBatch

_ALIGNMENT = 4  # words: Triton compiles a kernel anew for a pointer that is not a multiple of 16 bytes


class InputBuffers:
    """Owns the device's input tensors, which the next ``load`` overwrites: behind the work on them in a stream, at once on a CPU.

    Two steps may be on their way to the device at a time.
    """

    def __init__(self, max_tokens: int, max_rows: int, max_blocks: int, device: torch.device) -> None:
        num_words = _places(max_tokens, max_rows, max_rows, max_blocks)[-1].stop
        self._stages = cycle([_Stage(num_words, device), _Stage(num_words, device)])
        self._packed = torch.zeros(num_words, dtype=torch.int32, device=device)
        self._tables = torch.zeros((max_rows, max_blocks), dtype=torch.int32, device=device)

    def load(self, inputs: StepInputs, wanted: LongArray, num_rows: int, lora: LoraPlan | None = None) -> tuple[Tensor, ForwardBatch]:
        """(token ids [T] int64, the batch). ``wanted`` [L]: tokens whose logits are wanted.

        A decode step may be padded to ``num_rows``. The rows added have one token, which is written to no slot and wanted by nobody.
        """
        num_added = num_rows - len(inputs.query_lens)
        assert num_added == 0 or inputs.num_decodes == len(inputs.query_lens), "only decode steps are padded"
        width = inputs.block_tables.shape[1]
        places = _places(len(inputs.token_ids) + num_added, num_rows, len(wanted), width)
        stage = next(self._stages)
        _pack(stage.begin(), places, inputs, wanted)
        stage.send(self._packed, places[-1].stop)
        tables = self._tables[:num_rows]
        tables[:, :width].copy_(self._packed[places[-1]].view(num_rows, width))
        token_ids, positions, slot_mapping, query_start_loc, seq_lens, logits_indices = (self._packed[place] for place in places[:-1])
        query_lens, seq_lens_host = inputs.query_lens + [1] * num_added, inputs.seq_lens + [1] * num_added
        return token_ids.view(torch.int64), ForwardBatch(
            positions=positions.view(torch.int64),
            slot_mapping=slot_mapping.view(torch.int64),
            query_start_loc=query_start_loc,
            seq_lens=seq_lens,
            # Whole rows on a GPU, so that each step of B rows has the same ones; a CPU's implementations may look at all columns.
            block_tables=tables if tables.is_cuda else tables[:, :width],
            num_decodes=inputs.num_decodes + num_added,
            max_query_len=max(query_lens),
            max_seq_len=max(seq_lens_host),
            logits_indices=logits_indices.view(torch.int64),
            query_lens=query_lens,
            seq_lens_host=seq_lens_host,
            lora=lora,
        )


class _Stage:
    """A step on the host, until it is copied."""

    def __init__(self, num_words: int, device: torch.device) -> None:
        self._memory = torch.zeros(num_words, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._copied: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def begin(self) -> NDArray[np.int32]:
        """The words to fill, once the step that they hold is on the device."""
        if self._copied is not None:
            self._copied.synchronize()  # returns at once before the first ``send``
        words: NDArray[np.int32] = self._memory.numpy()
        return words

    def send(self, packed: Tensor, num_words: int) -> None:
        packed[:num_words].copy_(self._memory[:num_words], non_blocking=True)
        if self._copied is not None:
            self._copied.record()


def _places(num_tokens: int, num_rows: int, num_wanted: int, width: int) -> list[slice]:
    """Of each part in the packed buffer, in words."""
    sizes = (*[2 * num_tokens] * 3, num_rows + 1, num_rows, 2 * num_wanted, num_rows * width)
    places, start = [], 0
    for size in sizes:
        places.append(slice(start, start + size))
        start += -(-size // _ALIGNMENT) * _ALIGNMENT
    return places


def _pack(words: NDArray[np.int32], places: list[slice], inputs: StepInputs, wanted: LongArray) -> None:
    token_ids, positions, slot_mapping, query_start_loc, seq_lens, logits_indices, tables = (words[place] for place in places)
    num_rows, num_tokens = len(inputs.query_lens), len(inputs.token_ids)
    _put(token_ids.view(np.int64), inputs.token_ids, 0)
    _put(positions.view(np.int64), inputs.positions, 0)
    _put(slot_mapping.view(np.int64), inputs.slot_mapping, -1)
    _put(query_start_loc, inputs.query_start_loc, np.arange(num_tokens + 1, num_tokens + len(query_start_loc) - num_rows))
    _put(seq_lens, inputs.seq_lens, 1)
    _put(logits_indices.view(np.int64), wanted, 0)
    _put(tables.reshape(len(seq_lens), -1), inputs.block_tables, 0)


def _put(into: NDArray[Any], values: NDArray[Any] | list[int], padding: int | NDArray[Any]) -> None:
    into[: len(values)] = values
    into[len(values) :] = padding
