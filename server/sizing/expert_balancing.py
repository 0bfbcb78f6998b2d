"""How many experts a rank has room for where they move between ranks, and which numbers and models that can't be done with."""

from __future__ import annotations

from headway.server.config.parallel import ParallelConfig
from headway.server.config.plan import Quantization, is_grouped
from headway.server.errors import ConfigError
from headway.server.models.base import DecoderConfig, ModelConfig
from headway.server.words import plural


def num_slots(parallel: ParallelConfig, num_experts: int) -> int:
    """Of a layer, on a rank, of a config that ``check_balancing`` has passed."""
    return (num_experts + (parallel.num_redundant_experts or 0)) // parallel.tensor_parallel_size


def check_balancing(parallel: ParallelConfig, config: ModelConfig, quantization: Quantization) -> None:
    """Raises ConfigError for an --enable-eplb that can't be had with an --enable-expert-parallel that can. ``quantization``: the plan's."""
    num_redundant = parallel.num_redundant_experts
    if num_redundant is None:
        return
    assert isinstance(config, DecoderConfig), "models that pool have no ranks"
    if is_grouped(quantization) or quantization == "int8":
        why = "experts that are kept quantised are packed for this machine's products, and don't move"
        raise ConfigError([f"--enable-eplb: {why}; leave it out, or add --quantization none"])
    num_ranks, num_experts = parallel.tensor_parallel_size, config.num_experts
    most = num_experts * (num_ranks - 1)
    if num_redundant <= most and (num_experts + num_redundant) % num_ranks == 0:
        return
    usable = range(-num_experts % num_ranks, most + 1, num_ranks)
    nearest = min(usable, key=lambda other: (abs(other - num_redundant), other))
    why = f"{num_experts} experts and {plural(num_redundant, 'redundant one')} are not shared evenly by {num_ranks} ranks"
    if num_redundant > most:
        why = f"with {num_redundant} redundant ones a rank would have one of the {num_experts} experts twice"
    raise ConfigError([f"--enable-eplb: {why}; the nearest that works is num_redundant_experts {nearest} in --eplb-config"])
