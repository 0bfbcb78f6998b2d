"""One rank of a model that generates: its worker and its runner, made in the steps that all ranks take together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from headway.server.config.plan import DeviceFacts, Plan, plan_num_blocks
from headway.server.config.server import ServerConfig
from headway.server.distributed.rendezvous import RankGroups
from headway.server.distributed.sequence_share import WHOLE, SequenceShare
from headway.server.engine.attention_choice import opened_library
from headway.server.engine.choice import LocalChoice, TokenChoice
from headway.server.engine.device import device_facts
from headway.server.engine.executor.base import Runner
from headway.server.engine.expert_balancing import ExpertBalancer
from headway.server.engine.graphs import CudaRecorder, DecodeGraphs
from headway.server.engine.input_buffers import InputBuffers
from headway.server.engine.kv.shared_cache import SharedCache
from headway.server.engine.kv.transfer.build import make_worker
from headway.server.engine.kv.transfer.connector import WorkerSide
from headway.server.engine.kv.transfer.layout import Place
from headway.server.engine.model_runner import ModelRunner
from headway.server.engine.newest_tokens import NewestTokens
from headway.server.engine.planned_load import load_planned
from headway.server.engine.ranked_choice import RankedChoice, RankShare
from headway.server.engine.resident import Resident
from headway.server.engine.rows import RowTable
from headway.server.engine.sampler import SamplingState
from headway.server.engine.shared_choice import FollowingChoice, LeadingChoice
from headway.server.engine.shared_cores import shared_cores
from headway.server.engine.speculative.draft_rank import DraftRank
from headway.server.engine.speculative.drafter import DrafterRank
from headway.server.engine.speculative.eagle_rank import EagleRank, num_pending
from headway.server.engine.stage_runner import StageRunner
from headway.server.engine.step_forward import StepForward
from headway.server.engine.structured.compiler import GrammarCompiler
from headway.server.engine.worker import Worker
from headway.server.sizing.draft_model import DraftSetup
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
    groups: RankGroups
    engine: int = 0  # among those of the server
    draft: DraftSetup | None = None
    host: str | None = None  # see Place

    @property
    def place(self) -> Place:
        return Place(self.engine, self.groups.place, self.share, self.host)

    @property
    def share(self) -> SequenceShare:
        """What this rank keeps of each sequence."""
        context = self.groups.tensor.context
        return WHOLE if context is None else context.share


class ModelRank:
    """The constructor loads the weights; then ``num_blocks`` and ``start``, ``warm_up`` and ``record_graphs``. All ranks
    take each step before any can end it."""

    def __init__(self, setup: RankSetup, load_tokenizer: Callable[[], Tokenizer] | None = None) -> None:
        """``load_tokenizer``: see Worker; only the rank that samples needs it."""
        config, plan, device = setup.config, setup.plan, setup.device
        self._setup = setup
        load = partial(
            load_planned,
            setup.files,
            config,
            plan,
            device,
            setup.groups.tensor,
            overrides=config.model.config_overrides,
            has_whole_experts=config.parallel.enable_expert_parallel,
            num_redundant_experts=config.parallel.num_redundant_experts,
            stage=setup.groups.place.stage,
            attention=opened_library(plan.attention, device),
        )
        self._buffers = _buffers(plan, plan.max_num_rows, device)
        self._graphs = _graphs(plan, self._buffers, device)
        self.transfers: WorkerSide | None = None  # moves the pages, once they are there
        self.balancer: ExpertBalancer | None = None
        if config.parallel.enable_eplb:
            self.balancer = ExpertBalancer(config.parallel.balancing, setup.groups.tensor, device)
        context = setup.groups.tensor.context
        dealt = context.share if context is not None and context.deals_prompts else None
        stage = setup.groups.pipeline
        self.worker = Worker(load, plan, device, config.lora, load_tokenizer, self._graphs, stage, self.balancer, dealt)
        self.draft = self._make_draft(setup.draft) if setup.draft is not None else None

    def _make_draft(self, draft: DraftSetup) -> DrafterRank:
        device, group = self._setup.device, self._setup.groups.tensor
        buffers = _buffers(draft.plan, draft.plan.max_num_rows if draft.eagle is None else num_pending(draft.plan), device)
        graphs = _graphs(draft.plan, buffers, device)
        if draft.eagle is None:
            return DraftRank(draft, group, device, buffers, graphs)
        return EagleRank(draft, self.worker.loaded, group, device, buffers, graphs)

    def num_blocks(self) -> int:
        """KV blocks for which this rank has room. Raises ConfigError: see plan_num_blocks."""
        setup, worker = self._setup, self.worker
        place = setup.groups.place
        peak = worker.measure_activations(setup.vocab_size if place.stage.is_last else 0)
        if self.balancer is not None:  # which moves weights while no step is under way
            peak = max(peak, self.balancer.most_moved_bytes)
        peak += worker.measure_graphs()
        bytes_per_block = worker.bytes_per_block
        if self.draft is not None:  # which computes in turn with the large model
            peak = max(peak, self.draft.measure_activations()) + self.draft.worker.measure_graphs()
            bytes_per_block += self.draft.bytes_per_block
        facts = _share(device_facts(setup.device), place.num_ranks)
        return plan_num_blocks(setup.config, setup.plan, facts, bytes_per_block=bytes_per_block, peak_activation_bytes=peak)

    def start(self, cache: SharedCache, max_model_len: int, make_sampling: MakeSampling) -> None:
        """``cache`` and ``max_model_len`` are those of all ranks."""
        setup, plan = self._setup, self._setup.plan
        sampling = None if make_sampling is None else make_sampling(self.worker.grammars)

        def make_runner(resident: Resident) -> Runner:
            rows = RowTable(plan.max_num_seqs, max_model_len, plan.page_size, setup.share)
            cores = shared_cores(plan, self.worker.loaded.config, setup.groups.place.num_ranks) if setup.device.type == "cpu" else None
            self._forward = forward = StepForward(resident, self._buffers, self._graphs, self.worker.port, self.balancer, cores)
            if not self.worker.port.is_last:
                return StageRunner(forward, rows, self.worker.adapters)
            drafter = self.draft.start(cache.num_blocks, rows) if self.draft is not None else None
            choice = self._choice(resident, sampling)
            # A rank above 0 begins a step before anybody has asked it for the result of the one before.
            is_ahead = plan.overlaps_steps or not choice.is_alone
            newest = NewestTokens(plan.max_num_seqs, setup.device) if is_ahead else None
            return ModelRunner(resident, forward, rows, choice, self.worker.adapters, drafter, newest)

        self.worker.start(cache.num_blocks, make_runner)
        resident, loaded = self.worker.resident, self.worker.loaded
        self.transfers = make_worker(setup.config.kv_transfer, setup.place, resident, loaded, plan, setup.files, cache.block_bytes)
        if self.transfers is not None:
            self._forward.watch(self.transfers.begin_step)

    def warm_up(self) -> None:
        """See Worker.warm_up."""
        self.worker.warm_up()
        if self.draft is not None:
            self.draft.worker.warm_up()

    def record_graphs(self) -> None:
        """See Worker.record_graphs."""
        self.worker.record_graphs()
        if self.draft is not None:
            self.draft.worker.record_graphs()

    def _choice(self, resident: Resident, sampling: SamplingState | None) -> TokenChoice:
        context = self._setup.groups.tensor.context
        if context is None or not context.deals_prompts:
            return self._choice_of_share(resident, sampling)
        if context.ranks.rank > 0:
            return FollowingChoice(context.ranks, has_processors=self._has_processors)
        return LeadingChoice(self._choice_of_share(resident, sampling), context.ranks)

    def _choice_of_share(self, resident: Resident, sampling: SamplingState | None) -> TokenChoice:
        setup, groups = self._setup, self._setup.groups
        if groups.tensor.size == 1:
            assert sampling is not None, "the last stage's only rank samples"
            return LocalChoice(resident, sampling, is_alone=groups.place.num_ranks == 1)
        return RankedChoice(resident, RankShare(groups.tensor, setup.vocab_size, self._has_processors), sampling)

    @property
    def _has_processors(self) -> bool:
        return bool(self._setup.config.extension.logits_processors)


def _buffers(plan: Plan, num_rows: int, device: torch.device) -> InputBuffers:
    width = -(-plan.max_model_len // plan.block_size)
    return InputBuffers(max(plan.max_num_batched_tokens, num_rows), num_rows, width, device)


def _graphs(plan: Plan, buffers: InputBuffers, device: torch.device) -> DecodeGraphs | None:
    if not plan.graph_sizes:
        return None
    return DecodeGraphs(plan.graph_sizes, buffers, CudaRecorder(device), lambda: device_facts(device).free_bytes)


def _share(facts: DeviceFacts, num_ranks: int) -> DeviceFacts:
    """Ranks on a CPU have the host's memory between them; a GPU is a rank's own."""
    return replace(facts, free_bytes=facts.free_bytes // num_ranks) if facts.kind == "cpu" else facts
