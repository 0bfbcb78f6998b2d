"""From options and files to a running engine core, phase by phase."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from headway.server.config.plan import ModelFacts, Plan, fitted_max_model_len, make_plan, plan_num_blocks
from headway.server.config.server import ServerConfig
from headway.server.distributed.groups import SINGLE
from headway.server.engine.core import EngineCore
from headway.server.engine.device import choose_device, device_facts
from headway.server.engine.executor.inline import InlineExecutor
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.scheduler import Scheduler
from headway.server.engine.worker import Worker
from headway.server.loading.loader import load_model, read_config
from headway.server.source.files import ModelFiles
from headway.server.text.tokenizer import Tokenizer
from headway.server.types import EngineInfo


class _Phases:
    """Reports each phase as it begins and remembers how long it took."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._current: str | None = None
        self._since = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def begin(self, name: str) -> None:
        self.end()
        self._current = name
        self._report(name)

    def end(self) -> None:
        now = time.perf_counter()
        if self._current is not None:
            self.seconds[self._current] = round(now - self._since, 3)
        self._current, self._since = None, now


def build_engine(
    config: ServerConfig,
    files: ModelFiles,
    on_phase: Callable[[str], None] = lambda name: None,
    load_tokenizer: Callable[[], Tokenizer] | None = None,
) -> EngineCore:
    """``load_tokenizer`` is for requests with a grammar; None: none has one.

    Raises ConfigError or ModelSourceError, one sentence each, for what the user can mend.
    """
    phases = _Phases(on_phase)
    phases.begin("looking at the model and the device")
    device = choose_device(config.model.device)
    shape = read_config(files)
    facts = ModelFacts(shape.checkpoint_dtype, shape.max_model_len, shape.is_quantized_gguf)
    plan = make_plan(config, facts, device_facts(device))
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
    )
    worker = Worker(load, plan, device, config.lora, load_tokenizer)
    phases.begin("sizing the KV cache")
    activations = worker.measure_activations()
    num_blocks = plan_num_blocks(
        config, plan, device_facts(device), bytes_per_block=worker.bytes_per_block, peak_activation_bytes=activations
    )
    max_model_len = fitted_max_model_len(plan, num_blocks)
    worker.start(config, num_blocks, max_model_len)
    phases.begin("warming up")
    worker.warm_up()
    phases.end()
    kv = KVCacheManager(num_blocks, plan.block_size, config.cache.enable_prefix_caching)
    scheduler = Scheduler(
        kv=kv,
        max_num_batched_tokens=plan.max_num_scheduled_tokens,
        max_num_seqs=plan.max_num_active_seqs,
        max_model_len=max_model_len,
        watermark=config.scheduler.watermark,
        policy=config.scheduler.scheduling_policy,
        enable_chunked_prefill=config.scheduler.enable_chunked_prefill,
        long_prefill_token_threshold=config.scheduler.long_prefill_token_threshold,
    )
    info = _info(plan, worker, num_blocks, max_model_len, device_facts(device).name, phases.seconds)
    return EngineCore(scheduler, InlineExecutor(worker), info, kv, sleep_patience_s=config.network.shutdown_timeout)


def _info(plan: Plan, worker: Worker, num_blocks: int, max_model_len: int, device_name: str, seconds: dict[str, float]) -> EngineInfo:
    loaded = worker.loaded
    return EngineInfo(
        device=device_name,
        architecture=loaded.config.architecture,
        dtype=plan.dtype,
        weight_format=loaded.weight_format,
        max_model_len=max_model_len,
        vocab_size=loaded.config.vocab_size,
        block_size=plan.block_size,
        num_blocks=num_blocks,
        max_num_seqs=plan.max_num_seqs,
        max_num_batched_tokens=plan.max_num_batched_tokens,
        weight_bytes=loaded.weight_bytes,
        kv_cache_bytes=num_blocks * worker.bytes_per_block,
        phases=seconds,
    )
