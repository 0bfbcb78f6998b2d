"""From options to the two sides of the KV connector that they name."""

from __future__ import annotations

from collections.abc import Sequence

from headway.server.config.kv_transfer import KVTransferConfig
from headway.server.config.plan import Plan
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.kv.transfer.connector import SchedulerSide, WorkerSide
from headway.server.engine.kv.transfer.layout import Place
from headway.server.engine.kv.transfer.nixl import build as nixl
from headway.server.engine.kv.transfer.offload import build as offload
from headway.server.engine.resident import Resident
from headway.server.models.base import LoadedModel
from headway.server.source.files import ModelFiles


def make_policy(
    transfer: KVTransferConfig, kv: KVCacheManager, place: Place, block_bytes: int, hosts: Sequence[str | None]
) -> SchedulerSide | None:
    """``block_bytes``: over all ranks. ``hosts``: of each rank, where it is another than this one. None: no connector is asked for."""
    if transfer.offload is not None:
        return offload.make_policy(transfer.offload, kv, place.num_ranks, block_bytes)
    settings = transfer.settings
    return None if settings is None else nixl.make_policy(transfer, settings, kv, place, hosts)


def make_worker(
    transfer: KVTransferConfig,
    place: Place,
    resident: Resident,
    loaded: LoadedModel,
    plan: Plan,
    files: ModelFiles,
    block_bytes: int,
) -> WorkerSide | None:
    """Of a rank whose pages are there. ``block_bytes``: over all ranks. Raises ConfigError."""
    if transfer.offload is not None:
        return offload.make_worker(transfer.offload, place, resident, loaded, plan, files, block_bytes)
    settings = transfer.settings
    return None if settings is None else nixl.make_worker(transfer, settings, place, resident, loaded, plan, files)
