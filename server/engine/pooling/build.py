"""From options and files to an engine that pools texts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from headway.server.config.plan import Plan, fitted_max_model_len, make_plan, plan_num_blocks
from headway.server.config.pooling import pooler_choice
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import SINGLE
from headway.server.engine.core import EngineCore
from headway.server.engine.device import device_facts, tell_kernels
from headway.server.engine.executor.inline import InlineExecutor
from headway.server.engine.info import engine_info
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.pooling.choice import chosen_recipe, pooling_info
from headway.server.engine.pooling.pooler import Pooler
from headway.server.engine.pooling.runner import PoolingRunner
from headway.server.engine.pooling.scheduler import PoolingScheduler
from headway.server.engine.start_phases import StartPhases
from headway.server.engine.worker import Worker
from headway.server.errors import ConfigError
from headway.server.loading.pooled import load_pooled_model
from headway.server.loading.pooled_files import read_pooled
from headway.server.sizing.context import plan_within_memory
from headway.server.sizing.memory import pooled_num_blocks
from headway.server.sizing.model import ModelShape, pooling_facts
from headway.server.source.files import ModelFiles

if TYPE_CHECKING:
    import torch

    from headway.server.engine.resident import Resident


def build_pooling(
    config: ServerConfig, files: ModelFiles, use: Literal["embed", "classify"], device: torch.device, phases: StartPhases
) -> EngineCore:
    """Raises ConfigError or ModelSourceError, one sentence each, for what the user can mend."""
    if config.kv_transfer.settings is not None or config.kv_transfer.offload is not None:
        raise ConfigError(["a model that pools keeps no KV: leave --kv-transfer-config and --kv-offloading-size out"])
    choice = pooler_choice(config.pooling)
    source = read_pooled(files, use == "classify", config.model.config_overrides)
    facts, found = device_facts(device), pooling_facts(source)
    plan = plan_within_memory(config, make_plan(config, found, facts), ModelShape(use, source.config, found), facts)
    phases.begin("loading weights")
    load = partial(
        load_pooled_model,
        source,
        dtype=plan.dtype,
        device=device,
        load_format=config.model.load_format,
        group=SINGLE,
        seed=config.model.seed,
        max_model_len=plan.max_model_len,
    )
    worker = Worker(load, plan, device, config.lora)
    recipe = chosen_recipe(source.recipe, choice, is_classifier=use == "classify")
    pooling = pooling_info(source.recipe, choice, worker.loaded)
    phases.begin("sizing memory")
    num_blocks = _num_blocks(config, plan, device, worker)
    max_model_len = fitted_max_model_len(plan, num_blocks) if num_blocks else plan.max_model_len

    def make_runner(resident: Resident) -> PoolingRunner:
        pooler = Pooler(recipe, worker.loaded.projections, worker.dtype)
        return PoolingRunner(resident, pooler, block_size=plan.block_size, max_piece=plan.max_num_batched_tokens, device=device)

    worker.start(num_blocks, make_runner)
    phases.begin("warming up")
    worker.warm_up()
    tell_kernels()
    phases.end()
    scheduler = PoolingScheduler(
        max_num_batched_tokens=plan.max_num_scheduled_tokens,
        max_num_seqs=plan.max_num_active_seqs,
        max_model_len=max_model_len,
        num_blocks=num_blocks or None,
        block_size=plan.block_size,
        policy=config.scheduler.scheduling_policy,
    )
    info = engine_info(plan, worker, num_blocks, max_model_len, device_facts(device).name, phases.seconds, pooling=pooling)
    # Pages live for one step: there is nothing of them to manage.
    kv = KVCacheManager(1, plan.block_size, False)
    return EngineCore(scheduler, InlineExecutor(worker), info, kv, sleep_patience_s=config.network.shutdown_timeout)


def _num_blocks(config: ServerConfig, plan: Plan, device: torch.device, worker: Worker) -> int:
    """For the keys and values of one step; 0 for an encoder, which keeps none."""
    if not worker.bytes_per_block:
        return 0
    activations = worker.measure_activations(worker.loaded.config.hidden_size)
    room = plan_num_blocks(config, plan, device_facts(device), bytes_per_block=worker.bytes_per_block, peak_activation_bytes=activations)
    return pooled_num_blocks(plan, room)
