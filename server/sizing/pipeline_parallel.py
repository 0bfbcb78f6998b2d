"""Into how many stages the layers of a model can be cut, and what a device of a stage has then."""

from __future__ import annotations

from dataclasses import replace

from headway.server.config.parallel import ParallelConfig
from headway.server.config.plan import Quantization
from headway.server.distributed.places import PipelineStage
from headway.server.errors import ConfigError
from headway.server.models.base import DecoderConfig, ModelConfig
from headway.server.models.transformers_config import TransformersConfig
from headway.server.sizing.expert_balancing import num_slots
from headway.server.sizing.model import ModelShape
from headway.server.sizing.tensor_parallel import rank_share
from headway.server.words import plural


def check_stages(parallel: ParallelConfig, config: ModelConfig, *, num_devices: int | None) -> None:
    """Raises ConfigError for a --pipeline-parallel-size that can't be had with a --tensor-parallel-size that can. ``num_devices``: that an
    engine can have, None where ranks share one."""
    num_stages, num_ranks = parallel.pipeline_parallel_size, parallel.num_ranks
    if num_stages == 1:
        return
    if isinstance(config, TransformersConfig):
        why = "layers of a model that runs through transformers stay together"
        raise ConfigError([f"--pipeline-parallel-size {num_stages}: {why}; use --tensor-parallel-size, or leave it out"])
    most = config.num_layers if num_devices is None else min(config.num_layers, num_devices // parallel.stage_size)
    asked = f"--pipeline-parallel-size {num_stages}"
    if num_stages > config.num_layers:
        why = f"this model has {plural(config.num_layers, 'layer')}, and each stage needs one"
        raise ConfigError([f"{asked}: {why}; the nearest that works is {most}"])
    if num_stages > most:
        needs = "as many GPUs"
        if num_ranks > num_stages:
            needs = f"{num_ranks} GPUs with {' and '.join(parallel.asked_of_stages)}"
        raise ConfigError([f"{asked} needs {needs}, and there are {num_devices}: use {most}"])


def shares(shape: ModelShape, parallel: ParallelConfig, quantization: Quantization) -> list[ModelShape]:
    """The shape of what a rank of each stage holds. ``quantization``: the plan's."""
    num_stages = parallel.pipeline_parallel_size
    is_whole = parallel.enable_expert_parallel
    share = rank_share(shape, parallel.tensor_parallel_size, has_whole_experts=is_whole, quantization=quantization)
    if parallel.enable_eplb and isinstance(shape.config, DecoderConfig):
        share = replace(share, most_experts=num_slots(parallel, shape.config.num_experts))
    return [replace(share, stage=PipelineStage(index, num_stages)) for index in range(num_stages)]
