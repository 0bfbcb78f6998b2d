"""Decode steps as CUDA graphs: a forward pass recorded once for each of a few numbers of rows, then replayed with one call of the host.

A decode step of Llama-3.1-8B is about 300 kernels of a few microseconds; launched one by one they took 14 ms of the host at batch 1,
where the device needs 5 (H200, 2026-11). A step that also computes prompts runs eagerly: its kernels' grids follow from the prompts'
lengths, and are longer. So does one with adapters, whose kernels' grids follow from who has which, and so do logits, which are wanted of
some rows only and would need a buffer as wide as the vocabulary for each number of rows; both are launched while the graph still runs.

A graph reads inputs where InputBuffers put them, and its number of splits of a row's keys follows from the longest context; how many of
them have keys from the lengths on the device. The others end at once (H200: a step's attention is no slower with 128k than with 2k).
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from headway.server.engine.input_buffers import InputBuffers
from headway.server.engine.rows import StepInputs
from headway.server.layers.forward import ForwardBatch
from headway.server.words import gib

log = logging.getLogger(__name__)

Compute = Callable[[Tensor, ForwardBatch], Tensor]  # token ids and their batch to hidden states


class Recording(Protocol):
    def replay(self, token_ids: Tensor, batch: ForwardBatch) -> Tensor:
        """Hidden states, valid until the next replay of any recording of its recorder. The tensors are those that were recorded with,
        filled anew."""
        ...


class Recorder(Protocol):
    def record(self, compute: Compute, token_ids: Tensor, batch: ForwardBatch) -> Recording: ...

    def drop(self) -> None:
        """Gives back what the recordings took; none of them is replayed any more."""
        ...


class DecodeGraphs:
    """The recordings by number of rows. None before ``record``: then, and for steps that no recording fits, all runs eagerly."""

    def __init__(self, sizes: Sequence[int], buffers: InputBuffers, recorder: Recorder, free_bytes: Callable[[], int]) -> None:
        """``sizes`` rise. ``free_bytes`` tells the device's free memory."""
        self._sizes = sizes
        self._buffers = buffers
        self._recorder = recorder
        self._free_bytes = free_bytes
        self._recordings: dict[int, Recording] = {}
        self._planned_bytes = 0

    def padded_size(self, num_rows: int) -> int:
        """Rows that a decode step of so many gets: those of the smallest recording that holds them, or no more than it has."""
        at = bisect_left(self._sizes, num_rows) if self._recordings else len(self._sizes)
        return self._sizes[at] if at < len(self._sizes) else num_rows

    def find(self, batch: ForwardBatch) -> Recording | None:
        """The recording that computes this batch, which ``InputBuffers.load`` made."""
        is_plain_decode = batch.num_decodes == len(batch.query_lens) and batch.lora is None
        return self._recordings.get(batch.num_decodes) if is_plain_decode else None

    def measure(self, compute: Compute) -> int:
        """Bytes that ``record`` will take, by what the two largest do: the smaller ones find room in what the largest needs while it
        runs, and beside that each costs what the second does."""
        free = self._free_bytes()
        taken = []
        for size in self._sizes[:-3:-1]:
            self._recordings[size] = self._record(size, compute)
            before, free = free, self._free_bytes()
            taken.append(max(before - free, 0))
        self.drop()
        self._planned_bytes = sum(taken) + sum(taken[1:]) * (len(self._sizes) - len(taken))
        return self._planned_bytes

    def record(self, compute: Compute) -> None:
        """All sizes, in the place of what was recorded before. ``compute`` writes to no page, and always uses the same weights and pages.

        The largest comes first, so that the others find its memory. Raises whatever ``compute`` and recording do; nothing is kept then.
        """
        self.drop()
        started, free = time.perf_counter(), self._free_bytes()
        try:
            for size in reversed(self._sizes):
                self._recordings[size] = self._record(size, compute)
        except BaseException:
            self.drop()  # what there was room for would keep it
            raise
        taken, seconds = max(free - self._free_bytes(), 0), time.perf_counter() - started
        log.info("%d CUDA graphs for steps of up to %d requests in %.1f s: %s", len(self._sizes), self._sizes[-1], seconds, gib(taken, 2))
        if taken > self._planned_bytes:
            text = "The CUDA graphs take %s, %s more than was set aside: lower --gpu-memory-utilization if the device's memory runs out"
            log.warning(text, gib(taken, 2), gib(taken - self._planned_bytes, 2))

    def drop(self) -> None:
        self._recordings.clear()
        self._recorder.drop()

    def _record(self, size: int, compute: Compute) -> Recording:
        token_ids, batch = self._buffers.load(_nobody(), np.zeros(0, dtype=np.int64), size)
        return self._recorder.record(compute, token_ids, batch)


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, compute: Compute, token_ids: Tensor, batch: ForwardBatch) -> Recording:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            compute(token_ids, batch)  # compiles and loads what must not be while a graph is captured
        graph = torch.cuda.CUDAGraph()
        # Other threads, which compile grammars or talk to sockets, may go on meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            hidden = compute(token_ids, batch)
        torch.cuda.empty_cache()  # of what the first call left, so that free memory tells what the graph took
        return _CudaRecording(graph, hidden)

    def drop(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()


class _CudaRecording:
    def __init__(self, graph: torch.cuda.CUDAGraph, hidden: Tensor) -> None:
        self._graph = graph
        self._hidden = hidden

    def replay(self, token_ids: Tensor, batch: ForwardBatch) -> Tensor:
        self._graph.replay()
        return self._hidden


def _nobody() -> StepInputs:
    """A decode step without rows, which padding fills."""
    long, short = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int32)
    return StepInputs([], long, long, long, long, long, short, [], [], long, np.zeros((0, 1), dtype=np.int32), 0, long)
