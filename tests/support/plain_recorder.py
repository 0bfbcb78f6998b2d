"""What stands for CUDA graphs where there are none: recordings that compute anew, and insist on the tensors that they were made with."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import Tensor

from headway.server.config.attention import LibraryFacts
from headway.server.config.plan import DeviceFacts, ModelFacts, Plan, make_plan
from headway.server.config.server import ServerConfig
from headway.server.engine import build, model_rank
from headway.server.engine.graphs import Compute
from headway.server.layers.forward import ForwardBatch
from headway.server.sizing import draft_model

_INPUTS = ("positions", "slot_mapping", "query_start_loc", "seq_lens", "block_tables")


class PlainRecorder:
    def __init__(self) -> None:
        self.replays: list[int] = []  # rows of each
        self.num_records = self.num_drops = 0

    def record(self, compute: Compute, token_ids: Tensor, batch: ForwardBatch) -> PlainRecording:
        self.num_records += 1
        compute(token_ids, batch)
        return PlainRecording(self, compute, _addresses(token_ids, batch))

    def drop(self) -> None:
        self.num_drops += 1


class PlainRecording:
    def __init__(self, recorder: PlainRecorder, compute: Compute, addresses: list[object]) -> None:
        self._recorder, self._compute, self._addresses = recorder, compute, addresses
        self._epoch = recorder.num_drops

    def replay(self, token_ids: Tensor, batch: ForwardBatch) -> Tensor:
        assert self._epoch == self._recorder.num_drops, "replayed after a drop"
        assert _addresses(token_ids, batch) == self._addresses, "a graph would read the inputs of another step"
        self._recorder.replays.append(len(token_ids))
        return self._compute(token_ids, batch)


def _addresses(token_ids: Tensor, batch: ForwardBatch) -> list[object]:
    inputs = [token_ids, *(getattr(batch, name) for name in _INPUTS)]
    return [(tensor.data_ptr(), tensor.stride(0), tensor.shape[0]) for tensor in inputs]


def use_plain_graphs(monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]) -> PlainRecorder:
    """Engines that are built from now on have graphs of these sizes, recorded with what is returned."""

    def plan(config: ServerConfig, model: ModelFacts, device: DeviceFacts, library: LibraryFacts | None = None) -> Plan:
        return replace(make_plan(config, model, device, library), graph_sizes=sizes)

    recorder = PlainRecorder()
    monkeypatch.setattr(build, "make_plan", plan)
    monkeypatch.setattr(draft_model, "make_plan", plan)
    monkeypatch.setattr(model_rank, "CudaRecorder", lambda device: recorder)
    return recorder
