"""From options to the two sides of a NixlConnector."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Sequence

from headway.server.config.kv_transfer import KVTransferConfig, KVTransferSettings
from headway.server.config.plan import Plan
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.kv.transfer.layout import Place, layout_of
from headway.server.engine.kv.transfer.nixl.agent import Agent
from headway.server.engine.kv.transfer.nixl.keeper import Own
from headway.server.engine.kv.transfer.nixl.pages import Pages
from headway.server.engine.kv.transfer.nixl.policy import Address, NixlPolicy
from headway.server.engine.kv.transfer.nixl.requirements import read_secret
from headway.server.engine.kv.transfer.nixl.worker import Listening, NixlWorker
from headway.server.engine.resident import Resident
from headway.server.errors import ConfigError
from headway.server.models.base import LoadedModel
from headway.server.source.files import ModelFiles


def make_policy(
    transfer: KVTransferConfig, settings: KVTransferSettings, kv: KVCacheManager, place: Place, hosts: Sequence[str | None]
) -> NixlPolicy:
    """``hosts``: of each rank, where it is another than this one."""
    engine_id = settings.engine_id or str(uuid.uuid4())
    own = transfer.nixl_side_channel_host
    elsewhere = tuple(host or own for host in hosts) if any(hosts) else ()
    return NixlPolicy(
        kv,
        Address(f"{engine_id}_dp{place.engine}", own, _port(transfer, place), elsewhere),
        num_ranks=place.num_ranks,
        recomputes=settings.kv_load_failure_policy == "recompute",
        keep_s=transfer.nixl_abort_request_timeout,
    )


def make_worker(
    transfer: KVTransferConfig,
    settings: KVTransferSettings,
    place: Place,
    resident: Resident,
    loaded: LoadedModel,
    plan: Plan,
    files: ModelFiles,
) -> NixlWorker:
    """Of a rank whose pages are there. Raises ConfigError."""
    extra, pages = settings.kv_connector_extra_config, Pages(resident.kv)
    is_on_gpu = pages.memory == "VRAM"
    if settings.kv_buffer_device is not None and (settings.kv_buffer_device == "cuda") != is_on_gpu:
        there = "a GPU" if is_on_gpu else "the host's memory"
        raise ConfigError([f"--kv-transfer-config: kv_buffer_device {settings.kv_buffer_device}: the KV cache is in {there}: leave it out"])
    agent = Agent(f"headway-{secrets.token_hex(8)}", extra.backends, pages)
    own = Own(pages, agent, layout_of(place, resident, loaded, plan, files), read_secret(extra.key_file))
    listening = Listening(place.host or transfer.nixl_side_channel_host, _port(transfer, place), transfer.nixl_abort_request_timeout)
    return NixlWorker(own, listening if settings.keeps else None, compares=extra.checksum)


def _port(transfer: KVTransferConfig, place: Place) -> int:
    """Each rank of each engine has its own; that of rank 0 is what others are told."""
    return transfer.nixl_side_channel_port + place.engine * place.num_ranks + place.rank
