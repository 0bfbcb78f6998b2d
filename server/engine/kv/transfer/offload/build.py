"""From options to the two sides of an OffloadingConnector."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

import msgspec

from headway.server.config.kv_offload import OffloadSettings
from headway.server.config.plan import Plan
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.kv.transfer.layout import Place, layout_of
from headway.server.engine.kv.transfer.offload.files import HEADER_BYTES, BlockFiles, usable_directory
from headway.server.engine.kv.transfer.offload.pages import HostBlocks, pages_of
from headway.server.engine.kv.transfer.offload.policy import OffloadPolicy
from headway.server.engine.kv.transfer.offload.tier import Tier
from headway.server.engine.kv.transfer.offload.worker import OffloadWorker
from headway.server.engine.resident import Resident
from headway.server.errors import ConfigError
from headway.server.machine import host_memory
from headway.server.models.base import LoadedModel
from headway.server.source.files import ModelFiles
from headway.server.words import gib


@dataclass(frozen=True, slots=True)
class _Capacity:
    """Blocks for which each rank has room. 0: it is not asked for."""

    num_slots: int
    num_files: int


def make_policy(settings: OffloadSettings, kv: KVCacheManager, num_ranks: int, block_bytes: int) -> OffloadPolicy:
    """``block_bytes``: over all ranks."""
    capacity = _capacity(settings, num_ranks, block_bytes)
    memory = Tier(capacity.num_slots) if capacity.num_slots else None
    disk = Tier(capacity.num_files) if capacity.num_files else None
    return OffloadPolicy(kv, memory=memory, disk=disk, num_ranks=num_ranks)


def make_worker(
    settings: OffloadSettings,
    place: Place,
    resident: Resident,
    loaded: LoadedModel,
    plan: Plan,
    files: ModelFiles,
    block_bytes: int,
) -> OffloadWorker:
    """Of a rank whose pages are there. ``block_bytes``: over all ranks. Raises ConfigError."""
    asked = settings.kv_connector_extra_config
    if asked.block_size not in (None, plan.block_size):
        raise ConfigError([f"--kv-transfer-config: block_size {asked.block_size}: blocks are offloaded as they are, of {plan.block_size}"])
    pages, is_on_gpu = pages_of(resident.kv), resident.kv[0].k.is_cuda
    capacity = _capacity(settings, place.num_ranks, block_bytes)
    _check_memory(capacity.num_slots * pages.block_bytes)
    memory = HostBlocks(capacity.num_slots, pages.block_bytes, is_pinned=is_on_gpu) if capacity.num_slots else None
    block_files = None
    if asked.disk_path is not None and capacity.num_files:
        layout = sha256(msgspec.json.encode(layout_of(place, resident, loaded, plan, files))).digest()
        name = f"engine-{place.engine}-rank-{place.rank}"
        block_files = BlockFiles(usable_directory(asked.disk_path), name, layout, pages.block_bytes)
    return OffloadWorker(pages, memory, block_files, is_pinned=is_on_gpu)


def _capacity(settings: OffloadSettings, num_ranks: int, block_bytes: int) -> _Capacity:
    """``block_bytes``: over all ranks. Raises ConfigError for a size that holds nothing."""
    asked = settings.kv_connector_extra_config
    sizes = []
    for name, num_bytes, each in (
        ("cpu_bytes_to_use (or --kv-offloading-size)", asked.cpu_bytes_to_use, block_bytes),
        ("disk_bytes_to_use", asked.disk_bytes_to_use, block_bytes + num_ranks * HEADER_BYTES),
    ):
        num_blocks = num_bytes // each
        if num_bytes and not num_blocks:
            raise ConfigError([f"KV offload: {name} holds {num_bytes} bytes, and a block of all ranks needs {each}: raise it"])
        sizes.append(num_blocks)
    return _Capacity(*sizes)


def _check_memory(num_bytes: int) -> None:
    """Better now than when the system ends the process for it."""
    _, available = host_memory()
    if num_bytes > available:
        asked, free = gib(num_bytes), gib(available)
        raise ConfigError([f"KV offload asks for {asked} of the host's memory, and {free} are free: lower --kv-offloading-size"])
