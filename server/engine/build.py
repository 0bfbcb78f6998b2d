"""From options and files to a running engine core, phase by phase."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from headway.server.config.plan import Plan, fitted_max_model_len, make_plan, plan_num_blocks
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import SINGLE
from headway.server.engine.core import EngineCore
from headway.server.engine.device import choose_device, device_facts, share_threads
from headway.server.engine.executor.inline import InlineExecutor
from headway.server.engine.graphs import CudaRecorder, DecodeGraphs
from headway.server.engine.info import engine_info
from headway.server.engine.input_buffers import InputBuffers
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.model_runner import ModelRunner
from headway.server.engine.pooling.build import build_pooling
from headway.server.engine.processor_loading import load_processors
from headway.server.engine.rows import RowTable
from headway.server.engine.sampler import SamplingState
from headway.server.engine.scheduler import Scheduler
from headway.server.engine.start_phases import StartPhases
from headway.server.engine.step_forward import StepForward
from headway.server.engine.user_processors import UserProcessors
from headway.server.engine.worker import Worker
from headway.server.loading.loader import load_model
from headway.server.loading.model_config import read_config
from headway.server.sizing.model import chosen_use, generating_facts
from headway.server.source.files import ModelFiles
from headway.server.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from headway.server.engine.resident import Resident


def build_engine(
    config: ServerConfig,
    files: ModelFiles,
    on_phase: Callable[[str], None] = lambda name: None,
    load_tokenizer: Callable[[], Tokenizer] | None = None,
    index: int = 0,
) -> EngineCore:
    """Engine ``index`` of --data-parallel-size. ``load_tokenizer`` is for requests with a grammar; None: none has one.

    Raises ConfigError or ModelSourceError, one sentence each, for what the user can mend.
    """
    phases = StartPhases(on_phase)
    phases.begin("looking at the model and the device")
    num_engines = config.data_parallel.data_parallel_size
    device = choose_device(config.model.device, index, num_engines)
    if device.type == "cpu":
        share_threads(num_engines)
    use = chosen_use(config, files)
    if use == "generate":
        return _build_generating(config, files, device, phases, load_tokenizer, index)
    return build_pooling(config, files, use, device, phases)


def _build_generating(
    config: ServerConfig,
    files: ModelFiles,
    device: torch.device,
    phases: StartPhases,
    load_tokenizer: Callable[[], Tokenizer] | None,
    index: int,
) -> EngineCore:
    shape = read_config(files, config.model.hf_overrides)
    plan = make_plan(config, generating_facts(shape), device_facts(device))
    processors = load_processors(config, device)
    phases.begin("loading weights")
    load = partial(
        load_model,
        files,
        dtype=plan.dtype,
        device=device,
        quantization=plan.quantization,
        load_format=config.model.load_format,
        group=SINGLE,
        seed=config.model.seed,
        max_model_len=plan.max_model_len,
        overrides=config.model.hf_overrides,
    )
    buffers = InputBuffers(plan.max_num_batched_tokens, plan.max_num_seqs, -(-plan.max_model_len // plan.block_size), device)
    graphs = _graphs(plan, buffers, device)
    worker = Worker(load, plan, device, config.lora, load_tokenizer, graphs)
    phases.begin("sizing the KV cache")
    peak = worker.measure_activations(shape.vocab_size) + worker.measure_graphs()
    num_blocks = plan_num_blocks(config, plan, device_facts(device), bytes_per_block=worker.bytes_per_block, peak_activation_bytes=peak)
    max_model_len = fitted_max_model_len(plan, num_blocks)

    def make_runner(resident: Resident) -> ModelRunner:
        rows = RowTable(plan.max_num_seqs, max_model_len, plan.block_size)
        sampling = SamplingState(
            plan.max_num_seqs,
            shape.vocab_size,
            device,
            seed=config.model.seed,
            processors=UserProcessors(processors),
            grammars=worker.grammars,
            engine=index,
        )
        return ModelRunner(resident, StepForward(resident, buffers, graphs), rows, sampling, device, worker.adapters)

    worker.start(num_blocks, make_runner)
    phases.begin("warming up")
    worker.warm_up()
    if graphs is not None:
        phases.begin("capturing CUDA graphs")
        worker.record_graphs()
    phases.end()
    kv = KVCacheManager(num_blocks, plan.block_size, config.cache.enable_prefix_caching)
    scheduler = _scheduler(config, plan, kv, max_model_len)
    info = engine_info(plan, worker, num_blocks, max_model_len, device_facts(device).name, phases.seconds, processors=processors)
    return EngineCore(
        scheduler,
        InlineExecutor(worker),
        info,
        kv,
        sleep_patience_s=config.network.shutdown_timeout,
        overlaps_steps=plan.overlaps_steps,
    )


def _graphs(plan: Plan, buffers: InputBuffers, device: torch.device) -> DecodeGraphs | None:
    if not plan.graph_sizes:
        return None
    return DecodeGraphs(plan.graph_sizes, buffers, CudaRecorder(device), lambda: device_facts(device).free_bytes)


def _scheduler(config: ServerConfig, plan: Plan, kv: KVCacheManager, max_model_len: int) -> Scheduler:
    return Scheduler(
        kv=kv,
        max_num_batched_tokens=plan.max_num_scheduled_tokens,
        max_num_seqs=plan.max_num_active_seqs,
        max_model_len=max_model_len,
        watermark=config.scheduler.watermark,
        policy=config.scheduler.scheduling_policy,
        enable_chunked_prefill=config.scheduler.enable_chunked_prefill,
        long_prefill_token_threshold=config.scheduler.long_prefill_token_threshold,
    )
