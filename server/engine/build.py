"""From options and files to a running engine core, phase by phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from headway.server.config.attention import LibraryFacts
from headway.server.config.parallel import ParallelConfig
from headway.server.config.plan import Plan, fitted_max_model_len, make_plan
from headway.server.config.server import ServerConfig
from headway.server.engine.adapters import AdapterResidency
from headway.server.engine.attention_choice import chosen_library
from headway.server.engine.core import EngineCore
from headway.server.engine.device import choose_device, device_facts, occupy, share_threads, tell_kernels
from headway.server.engine.executor.crew import gathered_crew
from headway.server.engine.executor.placement import HostPlacement, Placement, placed_ranks
from headway.server.engine.info import engine_info
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.kv.transfer.build import make_policy
from headway.server.engine.kv.transfer.connector import SchedulerSide
from headway.server.engine.model_rank import ModelRank, RankSetup
from headway.server.engine.pooling.build import build_pooling
from headway.server.engine.processor_loading import load_processors
from headway.server.engine.sampler import SamplingState
from headway.server.engine.scheduler import Scheduler
from headway.server.engine.speculative.build import make_drafting
from headway.server.engine.start_phases import StartPhases
from headway.server.engine.structured.compiler import GrammarCompiler
from headway.server.engine.user_processors import UserProcessors
from headway.server.loading.model_config import read_config
from headway.server.models.base import DecoderConfig
from headway.server.sizing.attention_library import check_attention, check_heads
from headway.server.sizing.context import plan_within_memory
from headway.server.sizing.draft_model import draft_setup
from headway.server.sizing.expert_balancing import check_balancing
from headway.server.sizing.model import ModelShape, chosen_use, generating_facts, model_code
from headway.server.sizing.pipeline_parallel import check_stages
from headway.server.sizing.prompt_shares import check_prompt_shares
from headway.server.sizing.tensor_parallel import check_context, check_split
from headway.server.source.files import ModelFiles
from headway.server.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch


def build_engine(
    config: ServerConfig,
    files: ModelFiles,
    on_phase: Callable[[str], None] = lambda name: None,
    load_tokenizer: Callable[[], Tokenizer] | None = None,
    index: int = 0,
    draft_files: ModelFiles | None = None,
) -> EngineCore:
    """Engine ``index`` of --data-parallel-size. ``load_tokenizer`` is for requests with a grammar; None: none has one. ``draft_files`` are
    those of the draft model, where --speculative-config names one.

    Raises ConfigError or ModelSourceError, one sentence each, for what the user can mend.
    """
    phases = StartPhases(on_phase)
    phases.begin("looking at the model and the device")
    use = chosen_use(config, files)
    if use != "generate":
        return build_pooling(config, files, use, _occupied(config, HostPlacement(config, index)), phases)
    if config.parallel.num_ranks > 1:
        phases.begin("starting the ranks")
    with placed_ranks(config, index) as placement:
        return _build_generating(config, files, placement, phases, load_tokenizer, index, draft_files)


def _occupied(config: ServerConfig, placement: Placement) -> torch.device:
    """The device of this process from now on."""
    device = choose_device(config.model.device, placement.gpu_index)
    placement.num_devices(device)
    occupy(device)
    if device.type == "cpu":
        share_threads(config.data_parallel.data_parallel_size)
    return device


def _build_generating(
    config: ServerConfig,
    files: ModelFiles,
    placement: Placement,
    phases: StartPhases,
    load_tokenizer: Callable[[], Tokenizer] | None,
    index: int,
    draft_files: ModelFiles | None,
) -> EngineCore:
    device = _occupied(config, placement)
    shape = read_config(files, config.model.config_overrides, model_code(config))
    library = _library(config, shape, device)
    plan = _planned(config, placement, shape, device, library)
    assert (draft_files is not None) == config.speculative.asks_for_draft_model, "whoever starts the engine finds the draft model"
    draft = draft_setup(config, draft_files, plan, shape, device_facts(device)) if draft_files is not None else None
    processors = load_processors(config, device)

    def make_sampling(grammars: GrammarCompiler | None) -> SamplingState:
        user = UserProcessors(processors)
        seed = config.model.seed
        return SamplingState(plan.max_num_seqs, shape.vocab_size, device, seed=seed, processors=user, grammars=grammars, engine=index)

    parallel = config.parallel
    with gathered_crew(config, files, index, placement) as crew:
        groups = crew.join(plan, shape.vocab_size, device)
        phases.begin("loading weights")
        setup = RankSetup(config, files, plan, shape.vocab_size, device, groups, index, draft)
        rank = ModelRank(setup, load_tokenizer)
        phases.begin("sizing the KV cache")
        cache = crew.agree(rank.num_blocks(), rank.worker.bytes_per_block)
        num_blocks = cache.num_blocks
        max_model_len = fitted_max_model_len(plan, num_blocks)
        crew.start(cache, max_model_len)
        rank.start(cache, max_model_len, make_sampling)
        phases.begin("warming up")
        rank.warm_up()
        if plan.graph_sizes:
            phases.begin("capturing CUDA graphs")
            rank.record_graphs()
        tell_kernels()
        executor = crew.executor(rank.worker)
        workers = crew.transfers(rank.transfers) if rank.transfers is not None else None
        hosts = crew.hosts
    phases.end()
    kv = KVCacheManager(num_blocks, plan.block_size, config.cache.enable_prefix_caching)
    policy = make_policy(config.kv_transfer, kv, setup.place, cache.block_bytes, hosts)
    scheduler = _scheduler(config, plan, kv, max_model_len, policy)
    transfers = (policy, workers) if policy is not None and workers is not None else None
    info = engine_info(
        plan,
        rank.worker,
        num_blocks,
        max_model_len,
        _device_name(parallel, plan, device),
        phases.seconds,
        processors=processors,
        draft_model=rank.draft.info(num_blocks) if rank.draft is not None else None,
        attention=library.name if library is not None else None,
    )
    patience_s = config.network.shutdown_timeout
    ahead = _num_steps_ahead(config, plan)
    lora = config.lora
    adapters = AdapterResidency(executor, lora.max_loras, lora.num_host_loras) if lora.enable_lora else None
    return EngineCore(
        scheduler,
        executor,
        info,
        kv,
        sleep_patience_s=patience_s,
        num_steps_ahead=ahead,
        transfers=transfers,
        adapters=adapters,
        balancer=rank.balancer,
    )


def _library(config: ServerConfig, shape: DecoderConfig, device: torch.device) -> LibraryFacts | None:
    """Whose attention kernels were asked for. Raises ConfigError where it can't compute this model."""
    check_attention(config.attention, shape, on_gpu=device.type == "cuda")
    library = chosen_library(config, device)
    check_heads(config.attention.attention_backend, library, shape)
    return library


def _planned(config: ServerConfig, placement: Placement, shape: DecoderConfig, device: torch.device, library: LibraryFacts | None) -> Plan:
    """What the options, the model and the device come to. Raises ConfigError where they don't go together."""
    facts, there = generating_facts(shape), device_facts(device)
    plan = make_plan(config, facts, there, library)
    parallel, num_devices = config.parallel, placement.num_devices(device)
    check_split(
        parallel.tensor_parallel_size,
        shape,
        quantization=plan.quantization,
        num_devices=num_devices,
        has_whole_experts=parallel.enable_expert_parallel,
    )
    check_balancing(parallel, shape, plan.quantization)
    check_prompt_shares(parallel, shape, num_devices=num_devices)
    check_stages(parallel, shape, num_devices=num_devices)
    check_context(parallel, shape)
    return plan_within_memory(config, plan, ModelShape("generate", shape, facts), there)


def _device_name(parallel: ParallelConfig, plan: Plan, device: torch.device) -> str:
    """With what makes it slower or faster than its name says."""
    ranks = f" as the first of {parallel.num_ranks} ranks" if parallel.num_ranks > 1 else ""
    eager = ", without CUDA graphs" if device.type == "cuda" and not plan.graph_sizes else ""
    return device_facts(device).name + ranks + eager


def _num_steps_ahead(config: ServerConfig, plan: Plan) -> int:
    """As many steps under way as stages, so that none idles; of one stage, a second step so that the device never waits for the host."""
    num_stages = config.parallel.pipeline_parallel_size
    return num_stages - 1 if num_stages > 1 else int(plan.overlaps_steps)


def _scheduler(config: ServerConfig, plan: Plan, kv: KVCacheManager, max_model_len: int, connector: SchedulerSide | None) -> Scheduler:
    return Scheduler(
        kv=kv,
        max_num_batched_tokens=plan.max_num_scheduled_tokens,
        max_num_seqs=plan.max_num_active_seqs,
        max_model_len=max_model_len,
        watermark=config.scheduler.watermark,
        num_stages=config.parallel.pipeline_parallel_size,
        policy=config.scheduler.scheduling_policy,
        enable_chunked_prefill=config.scheduler.enable_chunked_prefill,
        long_prefill_token_threshold=config.scheduler.long_prefill_token_threshold,
        connector=connector,
        drafting=make_drafting(config.speculative),
    )
