"""How long a context can be on a device, before anything of the model is there."""

from __future__ import annotations

from dataclasses import replace

from headway.server.config.plan import DeviceFacts, Plan, bounded_plan
from headway.server.config.server import ServerConfig
from headway.server.errors import ConfigError
from headway.server.models.base import ModelConfig
from headway.server.sizing.dtypes import itemsize
from headway.server.sizing.memory import activation_bytes, bytes_per_block, kv_spec, rope_table_bytes
from headway.server.sizing.model import ModelShape
from headway.server.sizing.pipeline_parallel import shares
from headway.server.words import gib


def plan_within_memory(config: ServerConfig, plan: Plan, shape: ModelShape, device: DeviceFacts) -> Plan:
    """See bounded_plan; of the first rank, since the one with least room decides. ``device`` is that of a rank, or the host of all of them.
    An encoder keeps nothing of a context, and computes it in one step."""
    parallel = config.parallel
    share = shares(shape, parallel, plan.quantization)[0]
    per_block = bytes_per_block(kv_spec(share.config, share.stage), plan)
    if not per_block:
        _check_step(plan, shape.config, device)
        return plan
    if device.kind == "cpu":
        device = replace(device, total_bytes=device.total_bytes // parallel.num_ranks)
    return bounded_plan(config, plan, device, bytes_per_block=per_block)


def _check_step(plan: Plan, config: ModelConfig, device: DeviceFacts) -> None:
    needed = activation_bytes(config, plan, itemsize(plan.dtype)) + rope_table_bytes(config, plan)
    if needed > device.total_bytes:
        there, asked = gib(device.total_bytes), gib(needed)
        why = f"a step with this encoder's longest text of {plan.max_model_len} tokens takes {asked}, and {device.name} has {there}"
        raise ConfigError([f"{why}: set --max-model-len to a shorter one"])
