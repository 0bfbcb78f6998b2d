"""How long a context can be on a device, before anything of the model is there."""

from __future__ import annotations

from dataclasses import replace

from headway.server.config.plan import DeviceFacts, Plan, bounded_plan
from headway.server.config.server import ServerConfig
from headway.server.sizing.memory import bytes_per_block, kv_spec
from headway.server.sizing.model import ModelShape
from headway.server.sizing.pipeline_parallel import shares


def plan_within_memory(config: ServerConfig, plan: Plan, shape: ModelShape, device: DeviceFacts) -> Plan:
    """See bounded_plan; of the first rank, since the one with least room decides. ``device`` is that of a rank, or the host of all of them.
    An encoder keeps nothing of a context."""
    parallel = config.parallel
    share = shares(shape, parallel)[0]
    per_block = bytes_per_block(kv_spec(share.config, share.stage), plan)
    if not per_block:
        return plan
    if device.kind == "cpu":
        device = replace(device, total_bytes=device.total_bytes // parallel.num_ranks)
    return bounded_plan(config, plan, device, bytes_per_block=per_block)
