"""One rank of a model that generates: its worker and its runner, made in the steps that all ranks take together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from headway.server.config.plan import DeviceFacts, Plan, plan_num_blocks
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import TensorParallelGroup
from headway.server.engine.choice import LocalChoice, TokenChoice
from headway.server.engine.device import device_facts
from headway.server.engine.graphs import CudaRecorder, DecodeGraphs
from headway.server.engine.input_buffers import InputBuffers
from headway.server.engine.kv.transfer.build import make_worker
from headway.server.engine.kv.transfer.connector import WorkerSide
from headway.server.engine.kv.transfer.layout import Place
from headway.server.engine.model_runner import ModelRunner
from headway.server.engine.ranked_choice import RankedChoice, RankShare
from headway.server.engine.resident import Resident
from headway.server.engine.rows import RowTable
from headway.server.engine.sampler import SamplingState
from headway.server.engine.step_forward import StepForward
from headway.server.engine.structured.compiler import GrammarCompiler
from headway.server.engine.worker import Worker
from headway.server.loading.loader import load_model
from headway.server.source.files import ModelFiles
from headway.server.text.tokenizer import Tokenizer

# Given the grammars: what samples. None: another rank does.
MakeSampling = Callable[[GrammarCompiler | None], SamplingState] | None


@dataclass(frozen=True, slots=True)
class RankSetup:
    """What a rank is made from. ``plan`` is that of rank 0, for all of them."""

    config: ServerConfig
    files: ModelFiles
    plan: Plan
    vocab_size: int
    device: torch.device
    group: TensorParallelGroup
    engine: int = 0  # among those of the server

    @property
    def place(self) -> Place:
        return Place(self.engine, self.group.rank, self.group.size)


class ModelRank:
    """The constructor loads the weights; then ``num_blocks`` and ``start``, and the worker's ``warm_up`` and ``record_graphs``. All ranks
    take each step before any can end it."""

    def __init__(self, setup: RankSetup, load_tokenizer: Callable[[], Tokenizer] | None = None) -> None:
        """``load_tokenizer``: see Worker; only the rank that samples needs it."""
        config, plan, device = setup.config, setup.plan, setup.device
        self._setup = setup
        load = partial(
            load_model,
            setup.files,
            dtype=plan.dtype,
            device=device,
            quantization=plan.quantization,
            load_format=config.model.load_format,
            group=setup.group,
            seed=config.model.seed,
            max_model_len=plan.max_model_len,
            overrides=config.model.hf_overrides,
        )
        width = -(-plan.max_model_len // plan.block_size)
        self._buffers = InputBuffers(plan.max_num_batched_tokens, plan.max_num_seqs, width, device)
        self._graphs = _graphs(plan, self._buffers, device)
        self.transfers: WorkerSide | None = None  # moves the pages, once they are there
        self.worker = Worker(load, plan, device, config.lora, load_tokenizer, self._graphs)

    def num_blocks(self) -> int:
        """KV blocks for which this rank has room. Raises ConfigError: see plan_num_blocks."""
        setup, worker = self._setup, self.worker
        peak = worker.measure_activations(setup.vocab_size) + worker.measure_graphs()
        facts = _share(device_facts(setup.device), setup.group.size)
        return plan_num_blocks(setup.config, setup.plan, facts, bytes_per_block=worker.bytes_per_block, peak_activation_bytes=peak)

    def start(self, num_blocks: int, max_model_len: int, make_sampling: MakeSampling) -> None:
        """``num_blocks`` and ``max_model_len`` are those of all ranks."""
        setup, plan = self._setup, self._setup.plan
        sampling = None if make_sampling is None else make_sampling(self.worker.grammars)

        def make_runner(resident: Resident) -> ModelRunner:
            rows = RowTable(plan.max_num_seqs, max_model_len, plan.block_size)
            forward = StepForward(resident, self._buffers, self._graphs)
            return ModelRunner(resident, forward, rows, self._choice(resident, sampling), setup.device, self.worker.adapters)

        self.worker.start(num_blocks, make_runner)
        resident, loaded = self.worker.resident, self.worker.loaded
        self.transfers = make_worker(setup.config.kv_transfer, setup.place, resident, loaded, plan, setup.files)

    def _choice(self, resident: Resident, sampling: SamplingState | None) -> TokenChoice:
        setup = self._setup
        if setup.group.size == 1:
            assert sampling is not None, "the only rank samples"
            return LocalChoice(resident, sampling)
        has_processors = bool(setup.config.extension.logits_processors)
        return RankedChoice(resident, RankShare(setup.group, setup.vocab_size, has_processors), sampling)


def _graphs(plan: Plan, buffers: InputBuffers, device: torch.device) -> DecodeGraphs | None:
    if not plan.graph_sizes:
        return None
    return DecodeGraphs(plan.graph_sizes, buffers, CudaRecorder(device), lambda: device_facts(device).free_bytes)


def _share(facts: DeviceFacts, num_ranks: int) -> DeviceFacts:
    """Ranks on a CPU have the host's memory between them; a GPU is a rank's own."""
    return replace(facts, free_bytes=facts.free_bytes // num_ranks) if facts.kind == "cpu" else facts
