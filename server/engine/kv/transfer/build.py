"""From options to the two sides of the KV connector that they name."""

from __future__ import annotations

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


def make_policy(transfer: KVTransferConfig, kv: KVCacheManager, place: Place, bytes_per_block: int) -> SchedulerSide | None:
    """``bytes_per_block``: of a rank. None: no connector is asked for."""
    if transfer.offload is not None:
        return offload.make_policy(transfer.offload, kv, place.num_ranks, bytes_per_block)
    settings = transfer.settings
    return None if settings is None else nixl.make_policy(transfer, settings, kv, place)


def make_worker(
    transfer: KVTransferConfig, place: Place, resident: Resident, loaded: LoadedModel, plan: Plan, files: ModelFiles
) -> WorkerSide | None:
    """Of a rank whose pages are there. Raises ConfigError."""
    if transfer.offload is not None:
        return offload.make_worker(transfer.offload, place, resident, loaded, plan, files)
    settings = transfer.settings
    return None if settings is None else nixl.make_worker(transfer, settings, place, resident, loaded, plan, files)
