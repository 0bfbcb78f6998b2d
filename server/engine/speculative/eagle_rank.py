"""An EAGLE head on its device: weights, pages, pending hidden states and graphs beside those of the large model."""

from __future__ import annotations

from functools import partial

import torch

from headway.server.config.lora import LoraConfig
from headway.server.config.plan import Plan
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.engine.graphs import DecodeGraphs
from headway.server.engine.input_buffers import InputBuffers
from headway.server.engine.rows import RowTable
from headway.server.engine.speculative.draft_rank import draft_info
from headway.server.engine.speculative.eagle import EagleDrafter
from headway.server.engine.speculative.features import PendingFeatures
from headway.server.engine.step_forward import StepForward
from headway.server.engine.worker import Worker
from headway.server.loading.eagle import load_eagle_head
from headway.server.models.base import LoadedModel
from headway.server.models.eagle import EagleHead
from headway.server.sizing.draft_model import DraftSetup
from headway.server.stats import DraftModelInfo


def num_pending(plan: Plan) -> int:
    """Most that is pending of all rows: a token of each, and the drafts that were right. Steps of a few tokens leave out rows, so that more
    may come together than a step has."""
    return plan.max_num_seqs * (1 + plan.num_drafts)


class EagleRank:
    """See DrafterRank. ``target``: the large model, which stays where it is."""

    def __init__(
        self,
        setup: DraftSetup,
        target: LoadedModel,
        group: TensorParallelGroup,
        device: torch.device,
        buffers: InputBuffers,
        graphs: DecodeGraphs | None,
    ) -> None:
        """``group`` is that of one rank. ``buffers`` and ``graphs``: its own, for steps of its plan and of all that is pending."""
        assert setup.eagle is not None, "a head was asked for"
        self._setup = setup
        self._device = device
        self._buffers = buffers
        self._graphs = graphs
        plan = setup.plan
        load = partial(
            load_eagle_head,
            setup.files,
            setup.eagle,
            target,
            dtype=plan.dtype,
            device=device,
            group=group,
            max_model_len=plan.max_model_len,
            max_tokens=max(plan.max_num_batched_tokens, num_pending(plan), *plan.graph_sizes),
        )
        self.worker = Worker(load, plan, device, LoraConfig(), graphs=graphs)
        self._kept = torch.zeros(
            plan.max_num_seqs, 1 + plan.num_drafts, self._hidden_size, dtype=self.worker.dtype, device=device
        )  # before memory is planned

    @property
    def bytes_per_block(self) -> int:
        """With the hidden state of its last token."""
        return self.worker.bytes_per_block + self._hidden_size * self.worker.dtype.itemsize

    def measure_activations(self) -> int:
        """Beside what the model said of the same step, and what the head reads of it."""
        beside = 2 * self._setup.plan.max_num_batched_tokens * self._hidden_size * self.worker.dtype.itemsize
        return beside + self.worker.measure_activations(self.worker.loaded.config.vocab_size)

    def start(self, num_blocks: int, rows: RowTable) -> EagleDrafter:
        worker = self.worker
        worker.start(num_blocks)
        head = worker.loaded.model
        assert isinstance(head, EagleHead), "it was loaded so"
        forward = StepForward(worker.resident, self._buffers, self._graphs, worker.port)
        ends = torch.zeros(num_blocks, self._hidden_size, dtype=worker.dtype, device=self._device)
        pending = PendingFeatures(rows, self._kept, ends)
        return EagleDrafter(worker.resident, head, forward, rows, pending, self._device)

    def info(self, num_blocks: int) -> DraftModelInfo:
        return draft_info(self._setup, self.worker.loaded, num_blocks * self.bytes_per_block)

    @property
    def _hidden_size(self) -> int:
        return self.worker.loaded.config.hidden_size
