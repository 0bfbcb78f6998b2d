"""Over how many devices the tokens of a prompt can be dealt out."""

from __future__ import annotations

from headway.server.config.parallel import ParallelConfig
from headway.server.errors import ConfigError
from headway.server.models.base import DecoderConfig, ModelConfig
from headway.server.models.transformers_config import TransformersConfig


def check_prompt_shares(parallel: ParallelConfig, config: ModelConfig, *, num_devices: int | None) -> None:
    """Raises ConfigError for a --prefill-context-parallel-size that can't be had with a --tensor-parallel-size that can. ``num_devices``:
    that an engine can have, None where ranks share one."""
    size, tensor_size = parallel.prefill_context_parallel_size, parallel.tensor_parallel_size
    if size == 1:
        return
    asked = f"--prefill-context-parallel-size {size}"
    assert isinstance(config, DecoderConfig), "models that pool are not split"
    if isinstance(config, TransformersConfig):
        why = "a model that runs through transformers computes all tokens of a step"
        raise ConfigError([f"{asked}: {why}; use --tensor-parallel-size, or leave it out"])
    if config.has_sinks:
        raise ConfigError([f"{asked}: this model has attention sinks, which parts of a sequence have no way to share; leave it out"])
    if num_devices is not None and parallel.stage_size > num_devices:
        needs = "as many GPUs" if tensor_size == 1 else f"{parallel.stage_size} GPUs with --tensor-parallel-size {tensor_size}"
        raise ConfigError([f"{asked} needs {needs}, and there are {num_devices}: use {num_devices // tensor_size}"])
