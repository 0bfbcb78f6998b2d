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
from headway.server.sizing.draft_model import DraftSetup
from headway.server.stats import DraftModelInfo


class DraftRank:
    """The constructor loads the weights; then as ModelRank. It takes no adapters: requests with one are drafted for without it."""

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

    def measure_activations(self) -> int:
        """As Worker.measure_activations, of steps that want the likeliest token alone."""
        return self.worker.measure_activations(self.worker.loaded.config.vocab_size)

    def start(self, num_blocks: int, rows: RowTable) -> DraftModel:
        """``num_blocks`` and ``rows`` are those of the large model."""
        self.worker.start(num_blocks)
        forward = StepForward(self.worker.resident, self._buffers, self._graphs, self.worker.port)
        return DraftModel(self.worker.resident, forward, rows, self._device)

    def info(self, num_blocks: int) -> DraftModelInfo:
        loaded = self.worker.loaded
        return DraftModelInfo(
            name=self._setup.files.name,
            architecture=loaded.config.architecture,
            weight_format=loaded.weight_format,
            weight_bytes=loaded.weight_bytes,
            kv_cache_bytes=num_blocks * self.worker.bytes_per_block,
        )
