"""A step's forward pass: its inputs brought to the device, and the hidden states computed by a graph where there is one, else eagerly."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from torch import Tensor

from headway.kernels.plans import LoraPlan
from headway.server.engine.expert_balancing import ExpertBalancer
from headway.server.engine.graphs import DecodeGraphs
from headway.server.engine.input_buffers import InputBuffers
from headway.server.engine.resident import Resident
from headway.server.engine.rows import LongArray, StepInputs
from headway.server.engine.shared_cores import SharedCores
from headway.server.engine.stage_port import StagePort
from headway.server.layers.forward import ForwardBatch, LayerWatcher


class StepForward:
    """``load``, then ``run``; between them token ids may be changed on the device. Neither waits for it."""

    def __init__(
        self,
        resident: Resident,
        buffers: InputBuffers,
        graphs: DecodeGraphs | None,
        port: StagePort,
        balancer: ExpertBalancer | None = None,
        cores: SharedCores | None = None,
    ) -> None:
        self._resident = resident
        self._buffers = buffers
        self._graphs = graphs
        self._port = port
        self._balancer = balancer
        self._cores = cores
        self._watch: Callable[[], LayerWatcher | None] | None = None

    def watch(self, begin: Callable[[], LayerWatcher | None]) -> None:
        """``begin`` is asked before each pass who follows it."""
        self._watch = begin

    def load(self, inputs: StepInputs, wanted: LongArray, lora: LoraPlan | None) -> tuple[Tensor, ForwardBatch]:
        """(token ids, batch): the step's own rows, then those that only fill a graph. See InputBuffers.load."""
        num_rows = len(inputs.query_lens)
        if self._graphs is not None and lora is None and inputs.num_decodes == num_rows:
            num_rows = self._graphs.padded_size(num_rows)
        return self._buffers.load(inputs, wanted, num_rows, lora)

    def run(self, token_ids: Tensor, batch: ForwardBatch) -> Tensor:
        """Hidden states [T, H], on the device valid until the work of the next step. They come from the stage before and go to the next."""
        if self._balancer is not None:
            self._balancer.begin_step()
        inputs = self._port.receive(token_ids)
        batch.watcher = self._watch() if self._watch is not None else None
        recording = self._graphs.find(batch) if self._graphs is not None else None
        if recording is not None:
            hidden = recording.replay(token_ids, batch)
        else:
            with self._cores.step(batch.num_decodes, len(inputs)) if self._cores is not None else nullcontext():
                hidden = self._resident.model.forward(inputs, self._resident.kv, batch)
        self._port.pass_on(hidden)
        return hidden
