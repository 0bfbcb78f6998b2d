"""What an engine tells of itself once it is built."""

from __future__ import annotations

from headway.server.config.plan import Plan
from headway.server.engine.processor_loading import LoadedProcessors
from headway.server.engine.worker import Worker
from headway.server.stats import DraftModelInfo
from headway.server.types import EngineInfo, PoolingInfo


def engine_info(
    plan: Plan,
    worker: Worker,
    num_blocks: int,
    max_model_len: int,
    device_name: str,
    seconds: dict[str, float],
    *,
    pooling: PoolingInfo | None = None,
    processors: LoadedProcessors | None = None,
    draft_model: DraftModelInfo | None = None,
    attention: str | None = None,
) -> EngineInfo:
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
        pooling=pooling,
        draft_model=draft_model,
        attention=attention,
        reads_extra_args=processors is not None and bool(processors.for_all),
        processor_names=tuple(processors.functions) if processors is not None else (),
    )
