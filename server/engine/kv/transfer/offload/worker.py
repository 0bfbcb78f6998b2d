"""The worker's side of the OffloadingConnector: a thread beside a rank's steps that copies blocks out and back."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from headway.server.engine.kv.transfer.offload.files import BlockFiles, Unreadable
from headway.server.engine.kv.transfer.offload.pages import BlockPages, HostBlocks
from headway.server.engine.kv.transfer.orders import (
    MAX_SAVED_BLOCKS,
    Copied,
    Discard,
    Found,
    Load,
    Loaded,
    LoadedBlock,
    Order,
    Report,
    Save,
    Saved,
)
from headway.server.layers.forward import LayerWatcher

log = logging.getLogger(__name__)

_FIRST, _NEXT, _LAST = range(3)  # loads, for which requests wait; what is saved and removed, in its order; the end
_CLOSE_S = 5.0


@dataclass(frozen=True, order=True, slots=True)
class _Job:
    """``order`` None: the end."""

    urgency: int
    number: int
    order: Order | None = field(compare=False)
    mark: Any = field(compare=False, default=None)  # see BlockPages


class OffloadWorker:
    """See WorkerSide.

    A load comes before whatever else waits. That is safe: it reads only what had been saved when it was ordered, and what is saved into
    the same place, or removed, was ordered after it.
    """

    def __init__(self, pages: BlockPages, memory: HostBlocks | None, files: BlockFiles | None, *, is_pinned: bool) -> None:
        """What is there from before is found here, while the server starts."""
        self._pages = pages
        self._memory = memory
        self._files = files
        self._passing = HostBlocks(MAX_SAVED_BLOCKS, pages.block_bytes, is_pinned=is_pinned)  # blocks on their way to or from files
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._num_jobs = 0
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._has_told = False  # that nothing can be written
        if files is not None:
            self._reports.put(Found(files.find()))
        self._thread = threading.Thread(target=self._run, daemon=True, name="kv-offload")
        self._thread.start()

    def order(self, orders: Sequence[Order]) -> None:
        for order in orders:
            self._put(_FIRST if isinstance(order, Load) else _NEXT, order)

    def _put(self, urgency: int, order: Order | None) -> None:
        self._num_jobs += 1
        self._jobs.put(_Job(urgency, self._num_jobs, order, self._pages.mark()))

    def begin_step(self) -> LayerWatcher | None:
        return None

    def take_reports(self) -> list[Report]:
        return [self._reports.get() for _ in range(self._reports.qsize())]

    def close(self) -> None:
        """Files that wait to be written are, within ``_CLOSE_S``."""
        if self._thread.is_alive():
            self._put(_LAST, None)
            self._thread.join(timeout=_CLOSE_S)

    def _run(self) -> None:
        while (job := self._jobs.get()).order is not None:
            match job.order:
                case Save():
                    self._save(job.order, job.mark)
                case Load():
                    self._load(job.order, job.mark)
                case Discard(block_hashes=block_hashes):
                    self._discard(block_hashes)
        for part in (self._passing, self._memory, self._files):
            if part is not None:
                part.close()

    def _save(self, order: Save, mark: Any) -> None:
        started = time.perf_counter()
        buffers = [
            self._passing[index] if block.slot is None or self._memory is None else self._memory[block.slot]
            for index, block in enumerate(order.blocks)
        ]
        is_copied = True
        try:
            self._pages.read([block.block_id for block in order.blocks], buffers, mark)
        except Exception:  # the edge of the thread: the blocks must come free
            log.exception("KV offload: blocks could not be copied")
            is_copied = False
        self._reports.put(Copied(order.save_id))
        is_filed = is_copied and self._file(order, buffers)
        num_bytes = len(buffers) * self._pages.block_bytes if is_copied else 0
        self._reports.put(Saved(order.save_id, is_copied, is_filed, num_bytes, time.perf_counter() - started))

    def _file(self, order: Save, buffers: Sequence[Tensor]) -> bool:
        """Whether all files are written that are to be."""
        for block, buffer in zip(order.blocks, buffers, strict=True):
            if not block.is_filed or self._files is None:
                continue
            try:
                self._files.write(block.block_hash, buffer.numpy().data)
            except OSError as problem:
                if not self._has_told:
                    log.warning("KV offload: files can't be written: %s; the next one that can't will not be told of", problem)
                self._has_told = True
                return False
        return True

    def _load(self, order: Load, mark: Any) -> None:
        started = time.perf_counter()
        error: str | None = None
        lost: list[bytes] = []
        try:
            for first in range(0, len(order.blocks), MAX_SAVED_BLOCKS):
                lost += self._fill(order.blocks[first : first + MAX_SAVED_BLOCKS], mark)
        except Exception as problem:  # the edge of the thread: whoever waits must hear of it
            log.exception("KV offload: blocks could not be copied back")
            error = f"The prompt's KV could not be copied back: {problem}."
            lost = [block.block_hash for block in order.blocks]  # whoever computes them must not find them here again
        if error is None and lost:
            error = f"{len(lost)} blocks of the prompt's KV are not there any more."
        num_bytes = len(order.blocks) * self._pages.block_bytes if error is None else 0
        self._reports.put(Loaded(order.load_id, error, lost, num_bytes, time.perf_counter() - started))

    def _fill(self, blocks: Sequence[LoadedBlock], mark: Any) -> list[bytes]:
        """Returns those that are not there; the others are filled."""
        lost: list[bytes] = []
        there: list[tuple[int, Tensor]] = []
        for index, block in enumerate(blocks):
            if block.slot is not None and self._memory is not None:
                there.append((block.block_id, self._memory[block.slot]))
            elif self._is_read(block.block_hash, self._passing[index]):
                there.append((block.block_id, self._passing[index]))
            else:
                lost.append(block.block_hash)
        if there:
            self._pages.write([block_id for block_id, _ in there], [buffer for _, buffer in there], mark)
        return lost

    def _is_read(self, block_hash: bytes, buffer: Tensor) -> bool:
        try:
            if self._files is None:
                return False
            self._files.read(block_hash, buffer.numpy().data)
        except Unreadable as problem:
            log.debug("KV offload: %s: %s", block_hash.hex(), problem)
            return False
        return True

    def _discard(self, block_hashes: Sequence[bytes]) -> None:
        for block_hash in block_hashes:
            try:
                if self._files is not None:
                    self._files.remove(block_hash)
            except OSError as problem:
                log.warning("KV offload: a file can't be removed: %s", problem)
