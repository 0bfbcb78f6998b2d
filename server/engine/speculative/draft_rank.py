"""The draft model on its device: weights, pages and graphs beside those of the large model."""

from __future__ import annotations

from functools import partial

import torch

from headway.server.config.lora import LoraConfig
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.engine.graphs import DecodeGraphs
from headway.server.engine.input_buffers import InputBuffers
from headway.server.engine.planned_load import load_planned
from headway.server.engine.rows import RowTable
from headway.server.engine.speculative.draft_model import DraftModel
from headway.server.engine.step_forward import StepForward
from headway.server.engine.worker import Worker
from headway.server.models.base import LoadedModel
from headway.server.sizing.draft_model import DraftSetup
from headway.server.stats import DraftModelInfo


def draft_info(setup: DraftSetup, loaded: LoadedModel, kv_cache_bytes: int) -> DraftModelInfo:
    """Of whatever drafts, once it is loaded."""
    return DraftModelInfo(
        name=setup.files.name,
        architecture=loaded.config.architecture,
        weight_format=loaded.weight_format,
        weight_bytes=loaded.weight_bytes,
        kv_cache_bytes=kv_cache_bytes,
    )


class DraftRank:
    """See DrafterRank. It takes no adapters: requests with one are drafted for without it."""

    def __init__(
        self, setup: DraftSetup, group: TensorParallelGroup, device: torch.device, buffers: InputBuffers, graphs: DecodeGraphs | None
    ) -> None:
        """``group`` is that of one rank. ``buffers`` and ``graphs``: its own, for steps of its plan."""
        self._setup = setup
        self._device = device
        load = partial(load_planned, setup.files, setup.config, setup.plan, device, group)
        self._buffers = buffers
        self._graphs = graphs
        self.worker = Worker(load, setup.plan, device, LoraConfig(), graphs=graphs)

    @property
    def bytes_per_block(self) -> int:
        return self.worker.bytes_per_block

    def measure_activations(self) -> int:
        return self.worker.measure_activations(self.worker.loaded.config.vocab_size)

    def start(self, num_blocks: int, rows: RowTable) -> DraftModel:
        self.worker.start(num_blocks)
        forward = StepForward(self.worker.resident, self._buffers, self._graphs, self.worker.port)
        return DraftModel(self.worker.resident, forward, rows, self._device)

    def info(self, num_blocks: int) -> DraftModelInfo:
        return draft_info(self._setup, self.worker.loaded, num_blocks * self.bytes_per_block)
